"""Norms that become NoNorm and activations that become ReLU: the numbers, the states, what is refused."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from sparsify import Manager, Plan, PlanError, Recipe, RecipeError, SparsityError, StateError
from sparsify.modifiers import Modifier
from sparsify.substitutes import AFTER, Gradual, NoNorm, function_of
from tests.models import build
from tests.modifiers.substitute.training import BEGIN, END, STEPS, Training, norm, recipe

FAMILIES = (
    "bert", "roberta", "distilbert", "vit", "gpt2", "llama", "t5", "t5-gated", "bart", "albert", "modernbert", "mobilebert",
)  # fmt: skip


class Gemma(nn.Module):
    """A norm of another function: 1 + w."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.zeros(8)), 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * (1 + self.weight)


GemmaRMSNorm = type("GemmaRMSNorm", (Gemma,), {})


@pytest.mark.parametrize("kind", ["layer", "no bias", "rms"])
def test_a_norm_is_what_the_formula_says(kind: str) -> None:
    torch.manual_seed(0)
    old: Any = nn.RMSNorm(8, eps=1e-5) if kind == "rms" else nn.LayerNorm(8, bias=kind == "layer")
    nn.init.normal_(old.weight)
    function = function_of(old)
    assert function == ("rms" if kind == "rms" else "layer", 1e-5)
    x = torch.randn(6, 8) * 3 + 1
    new = NoNorm(old, *function, marked=True, done=False)
    assert new.weight is old.weight
    assert torch.equal(new(x), old(x))
    m, v = (0.7 if kind == "layer" else 0.0), 5.0
    for share in (0.25, 0.9, 1.0):
        new.blend(torch.tensor([share, m, v]))
        wanted = norm(x, old.weight, getattr(old, "bias", None), function[0], 1e-5, share, m, v)
        torch.testing.assert_close(new(x), wanted, rtol=1e-5, atol=1e-5)
    before = new(x)
    new.fold(m, v)
    assert new.phase == AFTER
    torch.testing.assert_close(new(x), before, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(new(x), x * new.weight + (0 if new.bias is None else new.bias))


def test_an_activation_is_what_the_formula_says() -> None:
    x = torch.randn(50)
    new = Gradual(nn.functional.gelu)
    new.blend(torch.tensor([0.3, 0, 0]))
    torch.testing.assert_close(new(x), 0.7 * nn.functional.gelu(x) + 0.3 * x.clamp(min=0))
    new.close()
    assert torch.equal(new(x), x.clamp(min=0))


def test_only_norms_whose_function_is_known() -> None:
    assert function_of(nn.BatchNorm1d(8)) is None
    assert function_of(nn.GroupNorm(1, 8)) is None
    assert function_of(nn.LayerNorm((2, 8))) is None
    assert function_of(GemmaRMSNorm()) is None
    with pytest.raises(PlanError, match="1 GemmaRMSNorm"):
        Plan.of(recipe("norms: nonorm"), nn.Sequential(nn.Linear(8, 8), GemmaRMSNorm()), total_steps=STEPS)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name: str) -> None:
    """Nothing changes before the window; names and parameters never do; the end is NoNorm and ReLU alone."""
    model = build(name).eval()
    parameters = dict(model.named_parameters())
    run = Training(name)
    assert list(run.model.state_dict()) == list(model.state_dict())
    assert [id(p) for g in run.optimizer.param_groups for p in g["params"]] == list(map(id, run.model.parameters()))
    assert list(dict(run.model.named_parameters())) == list(parameters)
    with torch.no_grad():
        assert torch.equal(next(iter(model(**run.inputs).values())), run.output())
    run.train(END - 1)
    stands = [m for m in run.model.modules() if isinstance(m, (NoNorm, Gradual))]
    assert all(m.phase != AFTER for m in stands)
    run.train()
    assert all(m.phase == AFTER for m in run.model.modules() if isinstance(m, (NoNorm, Gradual)))
    assert torch.isfinite(run.output()).all()
    run.manager.finalize()


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_folding_changes_nothing(name: str) -> None:
    run = Training(name).train(END - 1)
    rows = run.manager._runs[0]._rows(1.0)  # type: ignore[attr-defined]
    for each, row in zip(run.manager._runs[0].norms, rows, strict=True):  # type: ignore[attr-defined]
        each.blend(row)
    for each in run.manager._runs[0].activations:  # type: ignore[attr-defined]
        each.close()
    before = run.output()
    run.manager._runs[0]._finish()  # type: ignore[attr-defined]
    torch.testing.assert_close(run.output(), before, rtol=1e-4, atol=1e-5)


def test_an_early_end_is_an_error_unless_partial() -> None:
    run = Training().train(END - 1)
    with pytest.raises(SparsityError, match="the recipe's last update is due at step 5"):
        run.manager.finalize()
    run.manager.finalize(partial=True)


def test_the_report_says_it(tmp_path: Any) -> None:
    import json

    run = Training().train()
    run.manager.finalize(tmp_path)
    found = json.loads((tmp_path / "report.json").read_text())["modifiers"]["substitute"]
    assert (found["norms"], found["activations"], found["share"]) == (5, 2, 1.0)
    sentences = Modifier.members()["substitute"].findings(found)  # type: ignore[attr-defined]
    assert sentences[0].startswith("5 norms and 2 activations are substituted, by 100%; stock from_pretrained fails")


def test_the_second_training_of_a_model_leaves_it_substituted() -> None:
    run = Training().train()
    run.manager.finalize()
    before = run.output()
    again = Manager(recipe()).apply(run.model, run.optimizer, total_steps=STEPS)
    assert torch.equal(run.output(), before)
    assert "5 LayerNorm" in str(again.plan)


def test_layers_dropped_before_are_not_substituted() -> None:
    text = "version: 1\nmodifiers:\n  - {type: layer_drop, keep: [1]}\n  - {type: substitute, norms: nonorm, activations: relu}\n"
    plan = Plan.of(Recipe.parse(text), build("bert"), total_steps=STEPS)
    assert plan.modifiers[1].facts["norms"].startswith("3 LayerNorm")
    model = build("bert")
    Manager(Recipe.parse(text)).attach(model)
    assert sum(isinstance(module, NoNorm) for module in model.modules()) == 3


def test_targets_and_exclude() -> None:
    plan = partial(Plan.of, model=build("bert"), total_steps=STEPS)
    some = plan(recipe("norms: nonorm, targets: '*.output.LayerNorm', exclude: '*.attention.*'"))
    assert some.modifiers[0].facts["norms"] == "2 LayerNorm → NoNorm"
    with pytest.raises(PlanError, match="'x' matches no norm"):
        plan(recipe("norms: nonorm, targets: x"))


def test_a_state_of_another_structure_is_refused() -> None:
    saved = Training(text="norms: nonorm").train(2).states()
    with pytest.raises(StateError):
        Training(text="norms: nonorm, exclude: '*.attention.*'").manager.load_state_dict(saved[2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exclude: x", "nothing to substitute"),
        ("activations: relu, exclude: x", "`exclude` goes with `norms`"),
        ("norms: nonorm, curve: constant", "nothing is gradual"),
    ],
)
def test_what_a_recipe_cannot_say(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(text)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("torch", "norms: nonorm", "whose fused kernel would pass it by"),
        ("torch", "activations: relu", "no configuration says which activation"),
        ("resnet", "norms: nonorm", "10 BatchNorm2d"),
    ],
)
def test_what_a_model_cannot_do(name: str, text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan.of(recipe(text), build(name), total_steps=STEPS)


def test_rewinding_over_the_end_is_refused() -> None:
    text = (
        "version: 1\nmodifiers:\n  - {type: substitute, norms: nonorm, window: {end: 4}}\n"
        "  - {type: rewind, every: 3}\n"
    )
    with pytest.raises(PlanError, match="weights of step 0 would no longer fit"):
        Plan.of(Recipe.parse(text), build("bert"), total_steps=STEPS)


REWINDS = "version: 1\nmodifiers:\n  - {{type: rewind, {}}}\n  - {{type: substitute, norms: nonorm, window: {{begin: 1, end: 5}}}}\n"


@pytest.mark.parametrize("rewind", ["every: 3", "every: 6, to: 5"])
def test_rewinding_over_the_end_is_refused_where_it_stands_before(rewind: str) -> None:
    with pytest.raises(PlanError, match=r"would no longer fit"):
        Plan.of(Recipe.parse(REWINDS.format(rewind)), build("bert"), total_steps=STEPS)


def test_a_rewind_may_end_where_norms_are_folded_if_it_stands_before() -> None:
    """The weights that were put back are folded, like any others; a resume before and after it has the same bits."""

    def made() -> Training:
        return Training(recipe_=Recipe.parse(REWINDS.format("every: 5")))

    run, saved = made(), {}
    first = {name: value.clone() for name, value in run.model.named_parameters()}
    for step in (4, 5):
        saved[step] = run.train(step).states()
    back, ours = run.manager._runs  # type: ignore[attr-defined]
    rows = dict(zip(ours.plan.change.norms, ours._rows(1.0).tolist(), strict=True))
    for name, value in back.plan.parameters.items():
        path, _, kind = name.rpartition(".")
        if path not in rows:
            torch.testing.assert_close(value, first[name], rtol=0, atol=0)
            continue
        _, m, v = rows[path]
        scale = (v + run.model.get_submodule(path).eps) ** -0.5
        weight = first[f"{path}.weight"]
        wanted = weight * scale if kind == "weight" else first[name] - weight * (m * scale)
        torch.testing.assert_close(value, wanted)
    run.train()
    for states in saved.values():
        other = made().load(states).train()
        for one, two in zip(run.model.parameters(), other.model.parameters(), strict=True):
            assert torch.equal(one, two)


def test_in_the_next_stage_it_rewinds_what_was_folded() -> None:
    text = (
        "version: 1\nstages:\n  - name: one\n    length: 4 steps\n    modifiers:\n"
        "      - {type: substitute, norms: nonorm, window: {begin: 1}}\n"
        "  - name: two\n    modifiers:\n      - {type: rewind, every: 2}\n"
    )
    run = Training(recipe_=Recipe.parse(text)).train(4)
    folded, saved = {name: p.detach().clone() for name, p in run.model.named_parameters()}, run.states()
    for each in (run, Training(recipe_=Recipe.parse(text)).load(saved)):
        each.train(6)
        rewound = each.manager._runs[1].plan.parameters  # type: ignore[attr-defined]
        assert any("LayerNorm" in name for name in rewound)
        assert all(torch.equal(value, folded[name]) for name, value in rewound.items())


def test_the_window_is_whole() -> None:
    with pytest.raises(PlanError, match="it ends when it begins"):
        Plan.of(recipe(begin=5, end=5), build("bert"), total_steps=STEPS)
    assert BEGIN < END
