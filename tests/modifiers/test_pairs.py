"""Where modifiers meet: A ends × B begins, at the same step, in the next stage, later, and saved and resumed in between.

Every kind of modifier must be in `KINDS`; a new one is found missing by `test_every_modifier_is_here`. Every pair meets
at one of its places in the default suite, the places in turn, and at all of them in the slow one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from _pytest.mark import ParameterSet
from torch import nn

from sparsify import Manager, Recipe, measure
from sparsify.modifiers import Modifier
from tests.models import MODELS, build

FIRST, SECOND = 5, 6
"""Steps of the first stage, and of the rest."""

STOPS = (FIRST - 1, FIRST, FIRST + 2)
"""Where the training is saved, and gone on from in another process."""

ON = "targets: [attention, ffn]"
LOW, HIGH = 0.5, 0.75


@dataclass(frozen=True)
class Kind:
    """A modifier as text, with `{window}` where its window goes."""

    text: str
    prunes: bool = True
    """Whether sparsity rises to the target of its place in the pair."""

    first: bool = True
    """Whether it can stand first."""

    grows: bool = False
    """Whether it lets weights of its own masks return, which begin at zero."""


RAMP = "sparsity: {{from: {start}, to: {to}}}, window: {window}"
KINDS = {
    "magnitude": Kind(f"type: prune, {ON}, {RAMP}"),
    "magnitude global": Kind(f"type: prune, {ON}, scope: global, {RAMP}"),
    "random rows": Kind(f"type: prune, {ON}, criterion: random, scope: row, {RAMP}"),
    "latent": Kind(f"type: prune, {ON}, masking: latent, {RAMP}"),
    "blocks": Kind(f"type: prune, {ON}, pattern: {{{{type: block, shape: [4, 4]}}}}, {RAMP}"),
    "movement": Kind(f"type: prune, {ON}, criterion: movement, {RAMP}"),
    "movement blocks": Kind(
        f"type: prune, {ON}, criterion: movement, scope: global, pattern: {{{{type: block, shape: [4, 4]}}}}, {RAMP}"
    ),
    "soft movement": Kind(f"type: prune, {ON}, criterion: soft-movement, {RAMP}"),
    "hard concrete": Kind(f"type: prune, {ON}, criterion: hard-concrete, {RAMP}"),
    "admm": Kind(f"type: prune, {ON}, masking: admm, {RAMP}"),
    "one shot": Kind(f"type: prune, {ON}, sparsity: {{{{to: {{to}}, curve: one-shot}}}}, window: {{once}}"),
    "lock": Kind(f"type: prune, {ON}, criterion: existing, window: {{once}}", prunes=False, first=False),
    "fill": Kind("type: fill, begin: {at}", prunes=False, first=False),
    "penalty": Kind(f"type: penalty, {ON}, norm: l2, strength: 0.1, window: {{window}}", prunes=False, first=False),
    "layer drop": Kind("type: layer_drop, keep: [1]", prunes=False, first=False),
    "rewind": Kind("type: rewind, every: 2", prunes=False, first=False),
    "distill": Kind(
        "type: distill, teacher: self, logits: {{}}, hidden: {{loss: squarehead}}, begin: {at}",
        prunes=False,
        first=False,
    ),
    "learning rate": Kind(
        "type: learning_rate, curve: linear, rate: 1e-2, to: 0.5, begin: {at}", prunes=False, first=False
    ),
    "rigl": Kind(
        f"type: regrow, {ON}, scope: tensor, fraction: 0.2, sparsity: {{to}}, window: {{window}}",
        grows=True,
    ),
    "granet": Kind(
        f"type: regrow, {ON}, scope: global, fraction: 0.2, sparsity: {{{{from: {{low}}, to: {{to}}}}}}, "
        "window: {window}",
        grows=True,
    ),
    "ac-dc": Kind(
        f"type: regrow, {ON}, scope: global, grow: everything, dense: 1, sparsity: {{to}}, window: {{every}}",
        grows=True,
    ),
    "substitute": Kind(
        "type: substitute, norms: nonorm, activations: relu, window: {window}", prunes=False, first=False
    ),
    "freeze": Kind("type: freeze, targets: [attention, embeddings], begin: {at}", prunes=False, first=False),
}
FIRSTS = [name for name, kind in KINDS.items() if kind.first]


def written(first: str, second: str, place: str) -> Recipe:
    """Return a recipe in which B begins where A ends: at that `step`, in the next `stage`, or `later` in it."""
    a = KINDS[first].text.format(
        start=0, low=0.1, to=LOW, window=f"{{begin: 0, end: {FIRST}}}", once="{begin: 2}", at=0,
        every=f"{{begin: 0, end: {FIRST}, every: 2}}",
    )  # fmt: skip
    begin = {"step": FIRST, "stage": 0, "later": 2}[place]
    end = FIRST + SECOND - 1 if place == "step" else SECOND - 1
    b = KINDS[second].text.format(
        start="existing", low=LOW, to=HIGH, window=f"{{begin: {begin}, end: {end}}}", once=f"{{begin: {begin}}}",
        at=begin, every=f"{{begin: {begin}, end: {end}, every: 2}}",
    )  # fmt: skip
    one, other = (f"{{name: {name}, {text}}}" for name, text in (("a", a), ("b", b)))
    if place == "step":
        return Recipe.parse(f"version: 1\nmodifiers:\n  - {one}\n  - {other}\n")
    return Recipe.parse(
        f"version: 1\nstages:\n  - name: one\n    length: {FIRST} steps\n    modifiers:\n      - {one}\n"
        f"  - name: two\n    modifiers:\n      - {other}\n"
    )


def latent_from_the_stage(second: str) -> bool:
    """Whether B holds latent weights from the beginning of its stage, so that it cannot begin within A's."""
    return any(word in KINDS[second].text for word in ("latent", "movement", "hard-concrete"))


def meetings() -> Iterator[ParameterSet]:
    """Yield every pair with every place at which the plan lets it meet, all but one marked slow."""
    for row, first in enumerate(sorted(FIRSTS)):
        for column, second in enumerate(sorted(KINDS)):
            places = ["step", "stage", "later"]
            if latent_from_the_stage(second):
                places.remove("step")
            if second in ("layer drop", "substitute"):  # the structure changes before the training
                places = ["step"]
            often = (row + column) % len(places)
            for number, place in enumerate(places):
                yield pytest.param(first, second, place, marks=[] if number == often else [pytest.mark.slow])


class Training:
    """A small BERT under a recipe, and what was seen after every step."""

    def __init__(self, recipe: Recipe) -> None:
        torch.manual_seed(0)
        self.model = build("bert")
        self.model.eval()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3)
        self.manager = Manager(recipe).apply(self.model, self.optimizer, total_steps=FIRST + SECOND)
        self.inputs: dict[str, Any] = dict(MODELS["bert"].inputs())
        self.seen: list[tuple[float, float, float | None]] = []
        self.zeros: list[dict[str, torch.Tensor]] = []
        self.saved: dict[int, list[Any]] = {}

    def train(self, until: int, stops: tuple[int, ...] = ()) -> Training:
        """Train up to a step; keep the states of some steps on the way."""
        while self.manager.step < until:
            self.manager.on_step_begin()
            self.optimizer.zero_grad()
            outputs = self.model(**self.inputs)
            self.manager.on_loss(first_of(outputs).square().mean(), outputs, self.inputs).backward()
            self.manager.on_before_optimizer_step()
            self.optimizer.step()
            self.manager.on_step_end()
            targeted = measure(self.model, self.manager.plan.targeted()).targeted.sparsity
            self.seen.append((targeted, self.manager.sparsity, self.manager.target))
            self.zeros.append({name: parameter.detach() == 0 for name, parameter in matrices(self.model)})
            if self.manager.step in stops:
                self.saved[self.manager.step] = self.states()
        return self

    def states(self) -> list[Any]:
        return [copy.deepcopy(part.state_dict()) for part in (self.model, self.optimizer, self.manager)]  # type: ignore[attr-defined]

    def load(self, states: list[Any]) -> Training:
        for part, state in zip((self.model, self.optimizer, self.manager), states, strict=True):
            part.load_state_dict(state)
        return self


def first_of(outputs: Any) -> torch.Tensor:
    return next(iter(outputs.values()))  # type: ignore[no-any-return]


def matrices(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Return the matrices of the layers."""
    return [(name, p) for name, p in model.named_parameters() if "encoder.layer" in name and p.dim() == 2]


def test_every_modifier_is_here() -> None:
    used = {Recipe.parse(f"version: 1\nmodifiers:\n  - {{{text}}}\n").modifiers[0].type for text in _texts()}
    ours = {tag for tag, member in Modifier.members().items() if member.__module__.startswith("sparsify.")}
    assert used == ours, "put the new modifier into KINDS"


def _texts() -> list[str]:
    return [
        kind.text.format(
            start=0, low=0, to=LOW, window="{begin: 0, end: 9}", once="{begin: 0}", at=0, every="{every: 2}"
        )
        for kind in KINDS.values()
    ]


@pytest.mark.parametrize(("first", "second", "place"), list(meetings()))
def test_a_ends_where_b_begins(first: str, second: str, place: str) -> None:
    recipe = written(first, second, place)
    one = Training(recipe).train(FIRST + SECOND, STOPS)
    kind = KINDS[second]
    after = one.seen[FIRST - 1 :]
    filled, grows = second == "fill", kind.grows
    young = second == "rewind" and KINDS[first].grows  # what has grown since was zero at the step it goes back to
    for step, (real, said, target) in enumerate(after):
        assert real >= said - 1e-9, "what is masked is zero"
        assert filled or grows or young or real <= said + 0.02, "few weights are zero by chance"
        assert filled or real > LOW - 0.02, f"the zeros of A are lost {step} steps after its end"
        if target is not None and "soft" not in second and "concrete" not in second and "blocks" not in first + second:
            assert target == pytest.approx(said, abs=0.07 if "rows" in second else 0.03)  # rows of 16 are coarse
    if not filled and not young:  # what was pruned stays pruned
        alone = Training(written(first, "lock", place)).train(FIRST) if grows else one
        before = alone.zeros[FIRST - 1]
        for later in one.zeros[FIRST:]:
            for name, zero in before.items():
                assert not bool((zero & ~later[name]).any()), f"{name}: pruned weights have come back"
    density = one.manager.finalize().targeted.sparsity
    if kind.prunes:
        assert density > HIGH - 0.02
    elif not filled:
        assert density == pytest.approx(after[0][0], abs=0.02)
    for stop, states in one.saved.items():
        other = Training(recipe).load(states).train(FIRST + SECOND)
        other.manager.finalize()
        for (name, mine), theirs in zip(other.model.named_parameters(), one.model.parameters(), strict=True):
            assert torch.equal(mine, theirs), f"{name} differs after a resume at step {stop}"


@pytest.mark.parametrize("first", sorted(FIRSTS))
def test_a_fill_leaves_the_function(first: str) -> None:
    """What grows back begins at zero, right where A ends."""
    outputs = []
    for second in ("lock", "fill"):
        run = Training(written(first, second, "stage")).train(FIRST)
        with torch.no_grad():
            outputs.append({name: p.clone() for name, p in matrices(run.model)})
    for name, locked in outputs[0].items():
        filled = outputs[1][name]
        assert not bool((filled[locked == 0] != 0).any()), f"{name}: what was pruned is not zero right after the fill"


def test_the_structure_does_not_change_in_a_later_stage() -> None:
    from sparsify import PlanError

    with pytest.raises(PlanError, match="changes the structure, which is done before the training"):
        Training(written("magnitude", "layer drop", "stage"))


@pytest.mark.parametrize("second", sorted(name for name in KINDS if latent_from_the_stage(name)))
def test_latent_weights_within_the_stage_of_another_are_refused(second: str) -> None:
    from sparsify import PlanError

    with pytest.raises(PlanError, match="keeps latent weights from step 0, the beginning of its stage"):
        Training(written("magnitude", second, "step"))
