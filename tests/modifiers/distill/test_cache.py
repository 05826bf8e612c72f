"""`cache`: the teacher is asked about each sample once, and the training is the same."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import HookError, Manager, Plan, PlanError, RecipeError, StateError
from sparsify.modifiers.distill import Distill
from tests.modifiers.distill.students import apply, batch, bert, recipe, step
from tests.modifiers.distill.test_distill import gpt


class Asked:
    """Counts the forwards of a teacher, and the rows in them."""

    def __init__(self, teacher: nn.Module) -> None:
        self.rows: list[int] = []
        teacher.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, module: nn.Module, arguments: Any, named: dict[str, Any]) -> None:
        given = [value for value in (*arguments, *named.values()) if isinstance(value, Tensor)]
        self.rows.append(len(given[0]))


def widened(inputs: dict[str, Tensor], by: int) -> dict[str, Tensor]:
    """Return a batch with more padding."""
    pad = {"labels": -100}
    return {
        name: nn.functional.pad(value, (0, by), value=pad.get(name, 0)) if value.dim() == 2 else value
        for name, value in inputs.items()
    }


def rows_of(inputs: dict[str, Tensor], rows: list[int]) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in inputs.items()}


def tagged(seed: int = 0) -> dict[str, Tensor]:
    """Return a batch of token classification: padding and some tokens have no label."""
    inputs = batch(seed)
    labels = inputs["input_ids"] % 3
    return {**inputs, "labels": labels.masked_fill((inputs["attention_mask"] == 0) | (labels == 2), -100)}


def answered() -> dict[str, Tensor]:
    spans = {"start_positions": torch.tensor([0, 1, 2, 0]), "end_positions": torch.tensor([3, 2, 5, 1])}
    return batch(**spans)


KINDS: dict[str, tuple[Any, Any, str]] = {
    "classification": (lambda seed=0: bert(seed=seed), batch, "{temperature: 2}"),
    "cosine": (lambda seed=0: bert(seed=seed), batch, "{loss: cosine}"),
    "regression": (
        lambda seed=0: bert(seed=seed, num_labels=1),
        lambda: batch(labels=torch.tensor([0.1, -2.0, 1.5, 0.0])),
        "{loss: mse}",
    ),
    "tokens": (lambda seed=0: bert("TokenClassification", seed=seed), tagged, "{temperature: 2}"),
    "many tokens": (
        lambda seed=0: bert("TokenClassification", seed=seed, num_labels=50),
        tagged,
        "{loss: jsd, temperature: 2}",
    ),
    "answers": (lambda seed=0: bert("QuestionAnswering", seed=seed, num_labels=2), answered, "{temperature: 2}"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_cached_training_is_the_uncached_one(kind: str) -> None:
    """Whole rows, rows that are mixed anew, rows with more padding: the same losses, up to the rounding of floats."""
    make, inputs_of, term = KINDS[kind]
    inputs = inputs_of()
    batches = [inputs, inputs, rows_of(inputs, [3, 1]), widened(inputs, 3), rows_of(inputs, [2, 2, 0])]
    if kind == "regression":
        batches.pop(3)  # the model is given no more padding than it has positions for, either way
    losses: dict[str, list[float]] = {}
    for cache in ("", ", cache: {}"):
        student, teacher = make(), make(1)
        asked = Asked(teacher)
        manager, optimizer = apply(
            student, f"logits: {term}, hardness: 0.9{cache}", teacher=teacher, steps=len(batches)
        )
        losses[cache] = [float(step(manager, student, optimizer, each)) for each in batches]
        if cache:
            assert asked.rows == [4], "once about each sample"
        else:
            assert len(asked.rows) == len(batches)
        manager.finalize()
    assert losses[", cache: {}"] == pytest.approx(losses[""], rel=2e-5)


def test_only_rows_that_are_missing_are_asked_about() -> None:
    student, teacher, inputs = bert(), bert(seed=1), batch()
    asked = Asked(teacher)
    manager, optimizer = apply(student, "logits: {}, cache: {}", teacher=teacher, steps=3)
    other = bert()
    plain, plain_optimizer = apply(other, "logits: {}", teacher=bert(seed=1), steps=3)
    for each in (rows_of(inputs, [0, 2]), inputs, rows_of(inputs, [1, 1])):
        mine, theirs = step(manager, student, optimizer, each), step(plain, other, plain_optimizer, each)
        assert float(mine) == pytest.approx(float(theirs), rel=1e-5)
    assert asked.rows == [2, 2]
    found = manager._runs[0].report()["cache"]
    assert found == {"misses": 4, "hits": 4, "samples": 4}
    assert Distill.findings({"cache": found, "distilled": {"logits": 1.0}})[1] == (
        "the teacher was asked about 4 samples; 4 were found in the cache"
    )


def test_rows_of_positional_arguments_and_of_plain_modules() -> None:
    student, teacher, inputs = nn.Linear(4, 3), nn.Linear(4, 3), torch.randn(6, 4)
    asked = Asked(teacher)
    manager, optimizer = apply(student, "logits: {}, cache: {}", teacher=teacher, steps=3)
    for rows in ([0, 1], [0, 1, 2, 3, 4, 5], [5, 0]):
        manager.on_step_begin()
        outputs = student(inputs[rows])
        before = float(nn.functional.kl_div(
            outputs.detach().log_softmax(-1), teacher.forward(inputs[rows]).detach().log_softmax(-1),
            log_target=True, reduction="batchmean",
        ))  # fmt: skip
        loss = manager.on_loss(0 * outputs.sum(), outputs)
        assert float(loss.detach()) == pytest.approx(before, rel=1e-4, abs=1e-6)
        loss.backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()
    assert asked.rows == [2, 4]


def test_what_else_is_in_a_batch_tells_no_samples_apart() -> None:
    """Texts, numbers of rows: the teacher does not read them."""
    student, teacher = bert(), bert(seed=1)
    asked = Asked(teacher)
    manager, optimizer = apply(student, "logits: {}, cache: {}", teacher=teacher, steps=2)
    for number in range(2):
        manager.on_step_begin()
        outputs = student(**batch())
        manager.on_loss(outputs.loss, outputs, {**batch(), "texts": [str(number)] * 4, "epoch": number}).backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()
    assert asked.rows == [4]


# ---------------------------------------------------------------------- language models


def lines(seed: int = 0, length: int = 6) -> dict[str, Tensor]:
    inputs = batch(seed)
    return {**inputs, "labels": inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)}


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


# ---------------------------------------------------------------------- folders


def trained(folder: Path | None, rows: list[int], *, teacher: Any = None, steps: int = 2, number: int = 0) -> list[int]:
    """Train, and return how many rows the teacher was asked about in each of its forwards."""
    student, teacher = bert(), teacher or bert(seed=1)
    asked = Asked(teacher)
    given = {"teacher_cache": folder} if folder else {}
    manager, optimizer = apply(student, "logits: {}, cache: {}", teacher=teacher, steps=steps, **given)
    for _ in range(steps):
        step(manager, student, optimizer, rows_of(batch(number), rows))
    manager.finalize()
    return asked.rows


def test_a_folder_serves_the_next_run(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert trained(folder, [0, 1]) == [2]
    (path,) = folder.iterdir()
    assert trained(folder, [0, 1]) == []
    first = path.read_bytes()
    assert trained(folder, [0, 1, 2]) == [1]
    assert path.read_bytes() != first
    assert trained(folder, [2, 1, 0, 2]) == []
    assert trained(folder, [0, 1], teacher=bert(seed=2)) == [2]
    assert len(list(folder.iterdir())) == 2, "another teacher has a file of its own"
    assert trained(folder, [0, 1, 2]) == []
    assert not [each for each in folder.iterdir() if each.suffix != ".safetensors"]


def test_a_broken_off_training_keeps_what_was_said(tmp_path: Path) -> None:
    student, teacher = bert(), bert(seed=1)
    manager, optimizer = apply(student, "logits: {}, cache: {}", teacher=teacher, steps=9, teacher_cache=tmp_path)
    step(manager, student, optimizer, batch())
    manager.detach()
    assert trained(tmp_path, [0, 1, 2, 3]) == []


def test_a_folder_that_cannot_be_written_to_ends_no_training(tmp_path: Path) -> None:
    student, teacher = bert(), bert(seed=1)
    folder = tmp_path / "cache"
    manager, optimizer = apply(student, "logits: {}, cache: {}", teacher=teacher, steps=2, teacher_cache=folder)
    step(manager, student, optimizer, batch())
    folder.write_text("in the way")
    with pytest.raises(StateError, match="cannot be written"):
        manager.state_dict()
    with pytest.warns(UserWarning, match="the teacher's answers are not kept: .*cannot be written"):
        step(manager, student, optimizer, batch())
    with pytest.warns(UserWarning, match="the teacher's answers are not kept"):
        manager.finalize()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("cut", r"teacher-.*\.safetensors cannot be read: .*; remove it, or choose another folder"),
        ("empty", r"cannot be read"),
        ("a folder", r"cannot be read"),
        ("another teacher", r"is of another teacher than its name says"),
        ("no metadata", r"is not a cache of a teacher's answers that sparsify wrote"),
        ("nan", r"rows-3\.logits: holds values that are not finite"),
        ("a wrong dtype", r"rows-3\.logits: expected 4×3 of float32, got 4×3 of float16"),
        ("beyond", r"rows-3\.begins: values beyond the 4 that there are"),
        ("counts", r"rows-3\.counts: a sample has one row of logits"),
        ("missing", r"rows-3\.keys: is missing"),
        ("unknown", r"columns-3: is not known here"),
        ("more", r"rows-3\.extra: is not known here"),
    ],
)
def test_a_damaged_file_is_named_and_left(tmp_path: Path, damage: str, message: str) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    trained(tmp_path, [0, 1, 2, 3])
    (path,) = tmp_path.iterdir()
    with safe_open(path, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in list(file.keys())}, file.metadata()
    if damage == "nan":
        tensors["rows-3.logits"][1, 1] = torch.nan
    elif damage == "a wrong dtype":
        tensors["rows-3.logits"] = tensors["rows-3.logits"].half()
    elif damage == "beyond":
        tensors["rows-3.begins"][2] = 4
    elif damage == "counts":
        tensors["rows-3.counts"][2] = 0
    elif damage == "missing":
        del tensors["rows-3.keys"]
    elif damage == "unknown":
        tensors["columns-3.keys"] = tensors["rows-3.keys"]
    elif damage == "more":
        tensors["rows-3.extra"] = tensors["rows-3.keys"].clone()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    if damage == "a folder":
        path.unlink()
        path.mkdir()
    elif damage in ("cut", "empty"):
        path.write_bytes(path.read_bytes()[: 0 if damage == "empty" else 200])
    elif damage == "another teacher":
        save_file(tensors, path, {**metadata, "teacher": "0" * 64})
    elif damage == "no metadata":
        save_file(tensors, path)
    else:
        save_file(tensors, path, metadata)
    before = None if damage == "a folder" else path.read_bytes()
    with pytest.raises(StateError, match=message) as raised:
        trained(tmp_path, [0])
    assert str(path) in str(raised.value)
    assert before is None or path.read_bytes() == before


def test_folders_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for given, message in ((3, "must be a folder, got a int"), (tmp_path / "file", "is no folder")):
        with pytest.raises(PlanError, match=message):
            apply(bert(), "logits: {}, cache: {}", teacher=bert(seed=1), teacher_cache=given)
    with pytest.raises(PlanError, match="unknown binding 'teacher_cache'"):
        apply(bert(), "logits: {}", teacher=bert(seed=1), teacher_cache=tmp_path)


# ---------------------------------------------------------------------- states


def begun(own: bool, kind: str, folder: Path | None, seed: int = 0) -> tuple[Any, Manager, Any]:
    student = gpt(seed) if kind == "language" else bert(seed=seed)
    more = {} if own else {"teacher": gpt(1) if kind == "language" else bert(seed=1)}
    if folder is not None:
        more["teacher_cache"] = folder
    body = "logits: {temperature: 2}, cache: {}" + (", teacher: self" if own else "")
    manager, optimizer = apply(student, body, "  - {type: prune, sparsity: 0.5}\n", steps=8, **more)
    return student, manager, optimizer


@pytest.mark.parametrize("kept", ["in memory", "in a folder"])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("kind", ["classification", "language"])
def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path, kind: str, own: bool, kept: str) -> None:
    """Logits made in another batch differ in their last bits; those of the first part are the ones that count."""
    folder = tmp_path / "cache" if kept == "in a folder" else None
    inputs = [lines(number) if kind == "language" else batch(number) for number in range(2)]
    whole = {name: torch.cat([each[name] for each in inputs]) for name in inputs[0]}
    order = torch.Generator().manual_seed(0)
    batches = [rows_of(whole, torch.randperm(8, generator=order)[:5].tolist()) for _ in range(8)]
    student, manager, optimizer = begun(own, kind, folder)
    saved = []
    for each in batches:
        saved.append([copy.deepcopy(part.state_dict()) for part in (student, optimizer, manager)])
        step(manager, student, optimizer, each)
    for stop in (1, 3, 6):
        other, second, again = begun(own, kind, folder, seed=7 if own else 0)
        torch.save(saved[stop], tmp_path / "state.pt")
        states = torch.load(tmp_path / "state.pt", weights_only=True)
        for part, state in zip((other, again, second), states, strict=True):
            part.load_state_dict(state)
        for each in batches[stop:]:
            step(second, other, again, each)
        for name, value in student.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), (name, stop)
        counts = [each._runs[0].report()["cache"] for each in (manager, second)]
        assert counts[0]["samples"] == counts[1]["samples"]
        if folder is None:
            assert counts[0] == counts[1]


def test_a_state_replaces_what_was_kept() -> None:
    student, manager, optimizer = begun(False, "classification", None)
    empty = copy.deepcopy(manager.state_dict())
    step(manager, student, optimizer, batch())
    full = copy.deepcopy(manager.state_dict())
    for state, samples in ((empty, 0), (full, 4), (empty, 0)):
        manager.load_state_dict(state, verify_weights=False)
        assert manager._runs[0].report() == {} or manager._runs[0].report()["cache"]["samples"] == samples
        assert len(manager._runs[0].cache.answers) == samples


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"misses": -1}, r"cache\.misses: expected a whole number"),
        ({"again": [1]}, r"cache\.again: expected two numbers"),
        ({"more": 1}, r"cache\.more: is not known here"),
        ({"answers": {"rows-3": {}}}, r"rows-3\.keys: is missing"),
        ({"answers": {"rows-0": {}}}, r"answers\.rows-0: is not known here"),
        ({"answers": 3}, r"cache\.answers: expected a mapping"),
    ],
)
def test_states_that_are_wrong(change: dict[str, Any], message: str) -> None:
    student, manager, optimizer = begun(False, "classification", None)
    step(manager, student, optimizer, batch())
    state = copy.deepcopy(manager.state_dict())
    state["modifiers"]["distill"]["cache"].update(change)
    with pytest.raises(StateError, match=message):
        manager.load_state_dict(state)
    assert len(manager._runs[0].cache.answers) == 4
