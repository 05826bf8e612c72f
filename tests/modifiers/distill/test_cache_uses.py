"""What a `cache` of a teacher's outputs serves, and what it is not for."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from sparsify import HookError, Manager, Plan, PlanError, RecipeError
from tests.modifiers.distill.cached import Asked, lines, rows_of, widened
from tests.modifiers.distill.students import apply, batch, bert, gpt, recipe, step


def test_a_language_model_learns_from_drawn_tokens() -> None:
    """The mean over many draws is the loss without a cache; each draw stays the same whenever the sample comes."""
    student, teacher, inputs = gpt(0), gpt(1), lines()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(4.0)  # a teacher that has opinions
    manager, optimizer = apply(copy.deepcopy(student), "logits: {temperature: 2}", teacher=teacher, lr=0.0)
    exact = float(step(manager, manager.model, optimizer, inputs))
    found = []
    for tokens in range(1, 23):
        other = copy.deepcopy(student)
        manager, optimizer = apply(
            other, f"logits: {{temperature: 2}}, cache: {{tokens: {tokens}}}", teacher=teacher, lr=0.0
        )
        drawn = [float(step(manager, other, optimizer, each)) for each in (inputs, inputs, widened(inputs, 2))]
        assert drawn[1] == drawn[0]
        assert drawn[2] == pytest.approx(drawn[0], rel=1e-5)
        found.append(drawn[0])
    assert len(set(found)) == 22
    weights = torch.arange(1.0, 23.0)
    mean = float((torch.tensor(found) * weights).sum() / weights.sum())
    assert mean == pytest.approx(exact, rel=0.05)
    assert abs(mean - exact) < float(torch.tensor(found).std())


@pytest.mark.parametrize("tokens", [12, 22])
def test_a_token_takes_no_more_than_120_bytes_on_disk(tmp_path: Path, tokens: int) -> None:
    student, teacher = gpt(0), gpt(1)
    body = f"logits: {{}}, cache: {{tokens: {tokens}}}"
    manager, optimizer = apply(student, body, teacher=teacher, teacher_cache=tmp_path, steps=40)
    counted = 0
    for number in range(40):
        inputs = lines(number)
        inputs["labels"][:, 2:] = -100  # one token a sample: the worst case
        counted += int((inputs["labels"][:, 1:] != -100).sum())
        step(manager, student, optimizer, inputs)
    manager.finalize()
    (path,) = tmp_path.iterdir()
    head = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert counted == 160
    assert path.stat().st_size - head <= 120 * counted


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("logits: {loss: jsd}", r"keeps tokens that were drawn, which serve `kl` alone, not jsd: leave `cache` out"),
        ("logits: {loss: mse}", r"which serve `kl` alone, not mse"),
        (
            "terms: [{type: logits, temperature: 2}, {type: logits}]",
            r"drawn at one temperature, and the terms have 1 and 2: leave `cache` out, or make them one",
        ),
    ],
)
def test_what_drawn_tokens_do_not_serve(body: str, message: str) -> None:
    """The plan says so where the model tells its vocabulary, else the first step."""
    student, teacher = gpt(0), gpt(1)
    with pytest.raises(PlanError, match=message) as refused:
        Plan.of(recipe(f"{body}, cache: {{}}"), student, total_steps=10)
    assert "modifiers[0]." in str(refused.value)

    student.get_output_embeddings = lambda: None
    manager, _ = apply(student, f"{body}, cache: {{}}", teacher=teacher)
    manager.on_step_begin()
    outputs = student(**lines())
    with pytest.raises(HookError, match=message):
        manager.on_loss(outputs.loss, outputs, lines())


def test_a_small_vocabulary_is_kept_whole_and_serves_every_loss() -> None:
    body = "logits: {loss: jsd}, cache: {}"
    Plan.of(recipe(body), gpt(0, vocab_size=30), total_steps=10)
    with pytest.raises(PlanError, match="serve `kl` alone"):
        Plan.of(recipe(body), gpt(0, vocab_size=31), total_steps=10)
    Plan.of(recipe("logits: {loss: jsd}"), gpt(0), total_steps=10)  # without a cache


# ---------------------------------------------------------------------- what it is not for


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("hidden: {}, cache: {}", r"modifiers\[0\]\.cache.*keeps logits, not what passes through layers \(hidden\)"),
        ("logits: {}, attention: {}, cache: {}", r"keeps logits, not what passes through layers \(attention\)"),
        ("logits: {}, cache: {tokens: 0}", r"cache\.tokens"),
        ("logits: {}, cache: {tokens: 23}", r"cache\.tokens.*22"),
        ("logits: {}, cache: {token: 3}", r"unknown key 'token' \(did you mean 'tokens'"),
        ("logits: {}, teacher: teacher_cache, cache: {}", r"teacher_cache is the folder of the cache"),
    ],
)
def test_recipes_that_are_wrong(body: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(body)


@pytest.mark.parametrize("epochs", [2, 4])
def test_inputs_that_change_at_random_are_refused(epochs: int) -> None:
    """At the beginning of the second epoch after the first whole one, and not before."""
    student, teacher = bert(), bert(seed=1)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    made = recipe(f"logits: {{}}, cache: {{}}, begin: {2 if epochs == 4 else 0}")
    manager = Manager(made).apply(student, optimizer, steps_per_epoch=3, epochs=epochs, teacher=teacher)
    last = 8 if epochs == 4 else 5
    for number in range(last):
        step(manager, student, optimizer, batch(number))
    with pytest.raises(HookError, match=r"of 12 samples 0 were seen in the first: the inputs are changed at random"):
        step(manager, student, optimizer, batch(99))


def test_inputs_that_come_back_are_not_refused() -> None:
    student, teacher = bert(), bert(seed=1)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    manager = Manager(recipe("logits: {}, cache: {}, begin: 2")).apply(
        student, optimizer, steps_per_epoch=3, epochs=4, teacher=teacher
    )
    for number in range(12):
        step(manager, student, optimizer, rows_of(batch(number % 3), [3, 0, 2, 1]))
    assert manager._runs[0].report()["cache"]["misses"] == 12


def test_the_plan_says_when_nothing_comes_back() -> None:
    student = bert()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    for epochs, said in ((1, True), (2, False)):
        manager = Manager(recipe("logits: {}, cache: {}")).apply(
            student, optimizer, steps_per_epoch=3, epochs=epochs, teacher=bert(seed=1)
        )
        assert any("in one epoch no sample is seen twice" in note for note in manager.plan.notes) == said


def test_a_teacher_whose_logits_are_not_finite() -> None:
    student, teacher = bert(), bert(seed=1)
    with torch.no_grad():
        teacher.classifier.bias[0] = torch.nan
    manager, _ = apply(student, "logits: {}, cache: {}", teacher=teacher)
    manager.on_step_begin()
    outputs = student(**batch())
    with pytest.raises(HookError, match="the teacher's logits are not finite"):
        manager.on_loss(outputs.loss, outputs, batch())


def test_classes_that_the_teacher_rules_out_are_kept_so(tmp_path: Path) -> None:
    losses = []
    for cache in ("", ", cache: {}", ", cache: {}"):
        student, teacher = bert(), bert(seed=1)
        with torch.no_grad():
            teacher.classifier.bias[0] = -torch.inf
        more = {"teacher_cache": tmp_path} if cache else {}
        manager, optimizer = apply(student, f"logits: {{}}{cache}", teacher=teacher, steps=1, **more)
        losses.append(float(step(manager, student, optimizer, batch())))
        manager.finalize()
    assert losses[0] == losses[1] == losses[2]
    assert len(list(tmp_path.iterdir())) == 1


def test_two_stages_share_what_a_teacher_has_said() -> None:
    student, teacher = bert(), bert(seed=1)
    asked = Asked(teacher)
    text = "{name: %s, modifiers: [{type: distill, logits: {temperature: %d}, cache: {}}], length: 2}"
    from sparsify import Recipe

    made = Recipe.parse(f"version: 1\nstages: [{text % ('one', 1)}, {text % ('two', 3)}]")
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    manager = Manager(made).apply(student, optimizer, total_steps=4, teacher=teacher)
    for _ in range(4):
        step(manager, student, optimizer, batch())
    assert asked.rows == [4]
    state = manager.state_dict()["modifiers"]
    assert "answers" in state["one/distill"]["cache"]
    assert "answers" not in state["two/distill"]["cache"]
