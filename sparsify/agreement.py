"""Several processes train one model: they begin with the same weights, and are found out where they part.

DDP reduces gradients before our hooks, so that every process makes the same masks by itself. Where that does not hold
(no DDP, gradients that were not reduced, a file loaded in one process only) it is said, with the name of the weight.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sparsify import ranks
from sparsify.bits import checksum
from sparsify.errors import HookError, PlanError
from sparsify.layers import Weight
from sparsify.masking.store import MaskStore

EVERY = 10
"""Updates between two comparisons; the first and the last are always compared."""


@torch.no_grad()
def share_first(model: nn.Module) -> bool:
    """Give every process the parameters and buffers of the first, where parameters differ; return whether they did.

    So does DDP when it wraps a model: wrapped before or after us, all processes make their first masks of one model.
    Raises PlanError, in every process, where the models are not of one shape.
    """
    tensors = [(name, tensor.data) for name, tensor in (*model.named_parameters(), *model.named_buffers())]
    plain = [type(tensor) is Tensor and tensor.layout is torch.strided and not tensor.is_meta for _, tensor in tensors]
    if ranks.count() == 1 or not all(ranks.of_all(all(plain))):  # sharded: what is missing is said by the plan
        return False
    shapes = {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors}
    if found := _difference(shapes):
        raise PlanError(
            f"{found[0]} has another shape, or is missing, in process 0 or in process {found[1]}: every "
            "process must train the same model under the same recipe"
        )
    sums = ranks.of_all([checksum(parameter.data) for parameter in model.parameters()])
    if all(other == sums[0] for other in sums):
        return False
    for _, tensor in tensors:
        ranks.copy_first_(tensor)
    return True


class Agreement:
    """Compares masks and weights of all processes, every `EVERY`th update."""

    def __init__(self, weights: Iterable[Weight], masks: MaskStore) -> None:
        self.weights, self.masks = list(weights), masks
        self.updates = 0

    def after_update(self, step: int, *, last: bool) -> None:
        """Raise HookError, in every process, where the processes have parted; with one process nothing happens.

        Every process calls it after the same updates. 64-bit checksums of weights, masks and latent weights are
        compared.
        """
        if ranks.count() == 1:
            return
        self.updates += 1
        if self.updates % EVERY != 1 and not last:
            return
        sums = {f"the weight {weight.name}": checksum(weight.parameter) for weight in self.weights}
        if found := _difference(sums | self.masks.checksums()):
            raise HookError(
                f"{found[0]} differs between process 0 and process {found[1]} after step {step}: they no longer train "
                "the same model; wrap the model in DDP, call on_before_optimizer_step() after gradients are reduced, "
                "and load weights in every process"
            )


def _difference(own: dict[str, Any]) -> tuple[str, int] | None:
    """Return the first name whose value differs between the first process and another, and the number of that one."""
    first, *others = ranks.of_all(own)
    for rank, other in enumerate(others, 1):
        for name in (*first, *other):
            if first.get(name) != other.get(name):
                return name, rank
    return None
