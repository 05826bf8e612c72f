"""Masks and latent weights together: what the model sees, and what the optimizer sees."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import torch
from torch import Tensor

from sparsify import ranks
from sparsify.bits import checksum
from sparsify.errors import HookError
from sparsify.layers import Weight, row_span
from sparsify.masking.latent import Latent
from sparsify.masking.masks import Masked, Masks, outside
from sparsify.masking.project import project_
from sparsify.patterns.bundle import Part


class MaskStore(Masks):
    """The masks in force, and the latent weights (by the weight's name) that some of them hide."""

    def __init__(self) -> None:
        super().__init__()
        self._latents: dict[str, Latent] = {}
        self._inside: dict[str, list[Latent]] = {}
        """Latent weights by the name of their parameter."""

    def set(self, weight: Weight, mask: Tensor, owner: str) -> None:
        super().set(weight, mask, owner)
        self._outdate(weight)

    def release(self, weight: Weight) -> None:
        super().release(weight)
        self._outdate(weight)

    def replace(self, other: Masks) -> None:
        """Take the masks of another in place of all of ours, and let go of every latent weight, where it stands."""
        super().replace(other)
        self._latents, self._inside = {}, {}

    def _outdate(self, weight: Weight) -> None:
        """Note that the latent weights in some rows are not shown as they should be."""
        for latent in self._inside.get(weight.parameter_name, ()):
            latent.stale = True

    # ------------------------------------------------------------------ latent weights

    def hold(self, weight: Weight, tensor: Tensor | None = None, fixed: Tensor | None = None) -> None:
        """Keep a weight as it is now (or a saved one) aside, to be swapped in for the optimizer's step.

        What is pruned now is fixed: it cannot come back. `fixed` are the places of a saved weight.
        """
        now = weight.tensor
        mask = self.of(weight)
        if tensor is None and mask is not None and not bool(mask.all()):
            fixed = mask.clone()
        held = now.clone() if tensor is None else now.clone().copy_(tensor)
        latent = Latent(weight, held, fixed, exposed=tensor is None, stale=True)
        self._latents[weight.name] = latent
        others = [each for each in self._inside.get(weight.parameter_name, ()) if each.weight.name != weight.name]
        self._inside[weight.parameter_name] = [*others, latent]

    @property
    def latents(self) -> int:
        """How many weights are latent."""
        return len(self._latents)

    def latent(self, weight: Weight) -> Latent:
        """Return the latent weight of a weight."""
        return self._latents[weight.name]

    def hides(self, weight: Weight) -> bool:
        """Whether a latent weight lies in the parameter of a weight."""
        return bool(self._inside.get(weight.parameter_name))

    def set_gate(self, weight: Weight, part: Part | None, gate: Tensor | None, *, sampled: bool) -> None:
        """Put gates in place over a latent weight; what others have written is taken up through those before."""
        latent = self._latents[weight.name]
        if latent.changed():
            latent.take_up(self.of(weight))
        latent.set_gate(part, gate, sampled=sampled)

    def drop(self, weights: Iterable[Weight]) -> None:
        """Show latent weights a last time and let go of them: what is masked from now on is lost."""
        for weight in weights:
            latent = self._latents.get(weight.name)
            if latent is None:  # let go of before, by an update that was interrupted
                continue
            if latent.stale:
                latent.show(self.of(weight))
            self._inside[weight.parameter_name] = [
                each for each in self._inside[weight.parameter_name] if each is not latent
            ]
            del self._latents[weight.name]

    def notice(self, *, ours: bool = False) -> bool:
        """Take up what others have written to latent weights since they were shown; return whether there was anything.

        Unasked where it is `ours`. Raises HookError where several processes train, for they would go different ways.
        """
        found = False
        for latent in self._latents.values():
            latent.check(latent.weight.parameter)
            if latent.changed():
                found = True
                if not ours and ranks.count() > 1:
                    raise HookError(
                        f"{latent.weight.name} was written to after apply() in one of several processes: wrap the "
                        "model in DDP, and load weights, before apply()"
                    )
                latent.take_up(self.of(latent.weight))
        return found

    def swap_in(self) -> None:
        """Write the latent weights into the model, for the optimizer."""
        for latent in self._latents.values():
            latent.swap_in()

    def swap_out(self) -> None:
        """Take over what the optimizer made of the latent weights; `refresh` must follow."""
        for latent in self._latents.values():
            latent.swap_out()

    def checksums(self) -> dict[str, int]:
        """Return a checksum of every mask and every latent weight, by a name that tells which it is."""
        masks = {f"the mask of {masked.weight.parameter_name}": checksum(masked.mask) for masked in self}
        return masks | {f"the latent weight {name}": checksum(each.tensor) for name, each in self._latents.items()}

    def weights(self) -> list[Weight]:
        """Return every parameter that has a mask or a latent weight, as a whole."""
        found = {masked.weight.parameter_name: masked.weight for masked in self}
        for latent in self._latents.values():
            found.setdefault(latent.weight.parameter_name, latent.weight.whole)
        return list(found.values())

    def written(self) -> bool:
        """Whether a latent weight that was swapped in has been written to, by whomever."""
        return any(not torch.equal(each.tensor, each.weight.tensor) for each in self._latents.values())

    def expose(self, weights: Iterable[Weight]) -> None:
        """Have the model hold these latent weights themselves, to be ranked; `refresh` must follow."""
        for weight in weights:
            self._latents[weight.name].expose()

    @torch.no_grad()
    def dense(self, parameter: Tensor) -> Tensor:
        """Return a copy of a parameter, with its latent weights as they are without their masks."""
        whole = parameter.detach().clone()
        for latent in self._of(parameter):
            latent.weight.region(whole).copy_(latent.weight.tensor if latent.exposed else latent.tensor)
        return whole

    @torch.no_grad()
    def put(self, parameter: Tensor, value: Tensor) -> None:
        """Write a value into a parameter and its latent weights; what is pruned stays pruned. `refresh` must follow."""
        parameter.detach().copy_(value)
        for latent in self._of(parameter):
            latent.replace(latent.weight.region(value))
        for masked in self:
            if masked.weight.parameter is parameter:
                masked.stale = True

    def _of(self, parameter: Tensor) -> Iterator[Latent]:
        return (latent for latent in self._latents.values() if latent.weight.parameter is parameter)

    # ------------------------------------------------------------------ what the model sees

    @torch.no_grad()
    def project(self, skip: Collection[str] = ()) -> None:
        """Write zeros into all weights that have no latent one, and show those that are latent and not in `skip`."""
        for masked in self:
            masked.stale = True
        self.refresh(skip)

    @torch.no_grad()
    def refresh(self, skip: Collection[str] = ()) -> None:
        """Write into the model what has changed (masks, gates, stepped latent weights), except those in `skip`."""
        for masked in self:
            if masked.stale:
                for part in self._plain(masked):
                    project_(part.tensor, part.region(masked.near()))
                masked.stale = False
        for name, latent in self._latents.items():
            if latent.stale and name not in skip and latent.fits:
                latent.show(self.of(latent.weight))

    @property
    def sampled(self) -> bool:
        """Whether the model holds gates of one step."""
        return any(latent.sampled for latent in self._latents.values())

    @torch.no_grad()
    def at_rest(self, *, stepped: bool) -> dict[int, Tensor]:
        """Return copies of what the model holds outside of a step, by id of the parameter, of all that one changes."""
        found = {}
        for weight in self.weights():
            whole = weight.tensor.clone()
            masked = self.masked(weight)
            for part in self._plain(masked) if masked is not None else ():
                project_(part.region(whole), part.region(masked.near()))  # type: ignore[union-attr]
            for latent in self._inside.get(weight.parameter_name, ()):
                latent.weight.region(whole).copy_(latent.at_rest(self.of(latent.weight), stepped=stepped))
            found[id(weight.parameter)] = whole
        return found

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Multiply the gradients with the masks and the gates."""
        for masked in self:
            gradient = masked.weight.parameter.grad
            if gradient is None or gradient.is_sparse:
                continue
            for part in self._plain(masked):
                project_(part.region(gradient), part.region(masked.near()))
        for latent in self._latents.values():
            gradient = latent.weight.parameter.grad
            if gradient is None:
                continue
            region, gates, visible = (
                latent.weight.region(gradient),
                latent.gates,
                latent.visible(self.of(latent.weight)),
            )
            if gates is not None:
                region.mul_(gates)
            if visible is not None:
                project_(region, visible)

    def _plain(self, masked: Masked) -> Iterator[Weight]:
        """Yield the rows of a masked parameter that have no latent weight; none of one that has another shape now."""
        if masked.weight.parameter.shape != masked.mask.shape:
            return
        spans = [row_span(masked.weight)]
        for latent in self._inside.get(masked.weight.parameter_name, ()):
            spans = [part for span in spans for part in outside(span, row_span(latent.weight))]
        for span in spans:
            yield from masked.weight.pieces(*span)
