"""A latent weight: what the optimizer trains, while the model sees it under its mask (and gates)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify.bits import checksum
from sparsify.errors import HookError
from sparsify.layers import Weight
from sparsify.masking.groups import spread
from sparsify.masking.project import project_
from sparsify.patterns.bundle import Part


@dataclass
class Latent:
    """A weight W as it is without its mask. The model holds W ⊙ gates ⊙ mask; in the optimizer's step it holds W."""

    weight: Weight
    tensor: Tensor
    """W, in the shape of the weight's region."""

    fixed: Tensor | None = None
    """bool: False where an earlier modifier has pruned. What is False stays zero, and cannot come back."""

    part: Part | None = None
    gate: Tensor | None = None
    """What every tile of `part` is multiplied with beside its mask; 1-D."""

    resting: Tensor | None = None
    """The gates outside of a step, where those of the step are sampled."""

    sampled: bool = False
    """Whether the gates are those of one step: the mask waits until it is over."""

    exposed: bool = False
    """Whether the model holds W itself, bit by bit: after the optimizer's step, until it is shown again."""

    stale: bool = False
    """Whether the model does not hold what it should: W was swapped in, or mask or gates are new."""

    shown: int | None = None
    """The checksum of what was shown, by which we notice that somebody else has written to the weight since."""

    @property
    def gates(self) -> Tensor | None:
        """The gates in the shape of the weight, or None."""
        return self._spread(self.gate)

    def _spread(self, gate: Tensor | None) -> Tensor | None:
        return None if gate is None or self.part is None else spread(self.part, gate).to(self.tensor.dtype)

    def fix(self, kept: Tensor) -> None:
        """Have what is False in `kept` (bool, of our shape) stay zero."""
        if not bool(kept.all()):
            self.fixed = kept if self.fixed is None else self.fixed & kept

    def set_gate(self, part: Part | None, gate: Tensor | None, *, sampled: bool) -> None:
        """Put gates in place; they are shown next time. Those that are sampled hold for one step."""
        self.resting = self.resting if sampled else gate
        self.part, self.gate, self.sampled, self.stale = part, gate, sampled, True

    def rest(self) -> None:
        """The step is over: its gates are."""
        self.gate, self.sampled, self.stale = self.resting, False, True

    def visible(self, mask: Tensor | None) -> Tensor | None:
        """Return what decides which places are zero: gates that are sampled know no mask but the fixed one."""
        return self.fixed if self.sampled else mask

    @torch.no_grad()
    def show(self, mask: Tensor | None) -> None:
        """Write W under its gates and mask into the model."""
        tensor, gates, visible = self.weight.tensor, self.gates, self.visible(mask)
        if gates is not None:
            torch.mul(self.tensor, gates, out=tensor)
        elif not self.exposed:
            tensor.copy_(self.tensor)
        if visible is not None:
            project_(tensor, visible)
        self.exposed, self.stale, self.shown = False, False, checksum(tensor)

    @torch.no_grad()
    def swap_in(self) -> None:
        """Write W into the model, for the optimizer."""
        self.weight.tensor.copy_(self.tensor)
        self.exposed, self.stale, self.shown = False, True, None

    @torch.no_grad()
    def swap_out(self) -> None:
        """Take over what the optimizer made of W; it must be shown next. What is fixed is zero in the model, too."""
        now = self.weight.tensor
        self.tensor.copy_(now if self.fixed is None else project_(now, self.fixed))
        self.exposed, self.stale, self.shown = True, True, None

    @torch.no_grad()
    def replace(self, value: Tensor) -> None:
        """Take another W; what is fixed stays zero. It must be shown next."""
        self.tensor.copy_(value)
        if self.fixed is not None:
            project_(self.tensor, self.fixed)
        self.exposed, self.stale, self.shown = False, True, None

    @torch.no_grad()
    def expose(self) -> None:
        """Have the model hold W, to be ranked."""
        if not self.exposed:
            self.swap_in()
            self.exposed = True

    def at_rest(self, mask: Tensor | None, *, stepped: bool) -> Tensor:
        """Return what the model holds outside of a step, whatever it holds now; `stepped`: W is in it, and newer."""
        value, gates = (self.weight.tensor if stepped else self.tensor).clone(), self._spread(self.resting)
        if gates is not None:
            value.mul_(gates)
        return value if mask is None else project_(value, mask)

    # ------------------------------------------------------------------ what others write

    def check(self, parameter: Tensor) -> None:
        """Raise HookError if the parameter is not of the kind that it was."""
        now, then = (parameter.dtype, parameter.device), (self.tensor.dtype, self.tensor.device)
        if now != then or self.weight.shape != tuple(self.tensor.shape):
            kinds = [f"{str(dtype).removeprefix('torch.')} on {device}" for dtype, device in (then, now)]
            raise HookError(
                f"{self.weight.name} was {kinds[0]} when its latent weight was taken, and is {kinds[1]} now: "
                "move or convert the model before apply()"
            )

    @property
    def fits(self) -> bool:
        """Whether the parameter still has the shape that it had."""
        return self.weight.tensor.shape == self.tensor.shape

    def changed(self) -> bool:
        """Whether somebody else has written to the weight since it was shown."""
        return self.shown is not None and checksum(self.weight.tensor) != self.shown

    @torch.no_grad()
    def take_up(self, mask: Tensor | None) -> None:
        """Let W be what others wrote, wherever that is not what was shown; through a gate, what would show it."""
        now, gates, visible = self.weight.tensor, self.gates, self.visible(mask)
        expected = self.tensor.clone() if gates is None else self.tensor * gates
        if visible is not None:
            project_(expected, visible)
        value = now if gates is None else torch.where(gates > 0, now / gates, now)
        self.tensor.copy_(torch.where(now != expected, value, self.tensor))
        if self.fixed is not None:
            project_(self.tensor, self.fixed)
        self.exposed, self.stale, self.shown = False, True, checksum(now)  # they may write again before it is shown
