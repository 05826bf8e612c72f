"""What modifiers plan, as plain data: tensors, windows, and what they hold of the model at which time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsify.layers import Weight
from sparsify.modifiers.span import Span
from sparsify.schedules.window import StepWindow


@dataclass(frozen=True)
class TensorPlan:
    """What will happen to one tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    elements: int
    target: float | None
    """Final sparsity; None where it depends on weights that are not there."""

    nonzeros: int | None
    """Expected non-zero weights at the end; None where tensors compete or weights are unknown."""

    bundle: str
    """The tensors of one bundle are pruned together: a tensor's own name, or that of an attention block, …"""

    groups: int
    """How many groups live or die in it."""

    @classmethod
    def unknown(
        cls, weight: Weight, bundle: str | None = None, *, elements: int | None = None, groups: int = 1
    ) -> TensorPlan:
        """Return the plan of a tensor of which no sparsity is known."""
        return cls(
            bundle or weight.name,
            weight.shape,
            dtype_of(weight),
            weight.geometry.elements if elements is None else elements,
            None,
            None,
            bundle or weight.name,
            groups,
        )


@dataclass(frozen=True, kw_only=True)
class ModifierPlan:
    """A modifier resolved to steps and tensors."""

    key: str
    type: str
    window: StepWindow
    stage: Span
    """The stage that it stands in."""

    tensors: tuple[TensorPlan, ...]
    nonzeros: int | None
    """Expected non-zero weights of all its tensors together."""

    facts: Mapping[str, str]
    """What people want to read beside it: criterion, pattern, scope, …"""

    weights: tuple[Weight, ...] = ()
    """What it masks."""

    followers: tuple[Weight, ...] = ()
    """What is masked with the weights, but not counted among them: biases of empty rows."""

    touches: tuple[Weight, ...] = ()
    """Whose gradients it reads or adds to."""

    holds: tuple[int, int] | None = None
    """The first and last step between which it owns masks or latent weights; by default its window."""

    latent: bool = False
    """Whether it keeps latent weights meanwhile."""

    unknown: str = "existing zeros"
    """What the plan says in place of a target where there is none."""

    when: str = ""
    """When it acts, in words, where that is not its window."""

    starts: float | None = None
    """The sparsity of its first update, where the recipe says."""

    reaches: float | None = None
    """The sparsity of its last update, where the recipe says."""

    keeps_zeros: bool = False
    """Whether zeros that are there when its window opens stay zero: a lock, or a ramp `from: existing`."""

    rescales: int | None = None
    """The step at which it writes weights of another scale than they had, where it does."""

    rewinds: tuple[int, int] | None = None
    """The step whose weights it puts back, and the last at which it does, where it does."""

    @property
    def held(self) -> tuple[int, int]:
        """The first and last step between which it owns masks or latent weights."""
        return self.holds or (self.window.begin, self.window.end)

    @property
    def masked(self) -> tuple[Weight, ...]:
        """Everything that it masks."""
        return (*self.weights, *self.followers)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return {
            "key": self.key,
            "type": self.type,
            "begin": self.window.begin,
            "end": self.window.end,
            "every": self.window.every,
            "updates": self.window.count(),
            **self.facts,
            "expected_nonzeros": self.nonzeros,
            "tensors": [
                {
                    "name": tensor.name,
                    "shape": list(tensor.shape),
                    "dtype": tensor.dtype,
                    "elements": tensor.elements,
                    "target": tensor.target,
                    "expected_nonzeros": tensor.nonzeros,
                    "bundle": tensor.bundle,
                    "groups": tensor.groups,
                }
                for tensor in self.tensors
            ],
        }


def dtype_of(weight: Weight) -> str:
    """Return the name of a weight's dtype."""
    return str(weight.parameter.dtype).removeprefix("torch.")
