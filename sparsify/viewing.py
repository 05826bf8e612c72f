"""The sparse model seen from outside: of methods that train dense weights, and in another model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sparsify.errors import StateError
from sparsify.layers import Named, Weight, unwrap
from sparsify.masking.masks import Masks
from sparsify.masking.project import project_
from sparsify.modifiers.contract import Run
from sparsify.transaction import Transaction


@contextmanager
def sparse_copy(transaction: Transaction, runs: Sequence[Run]) -> Iterator[None]:
    """Put the sparse copies of runs whose weights are dense by intent into the model; the dense ones return at the end.

    No hook can be called meanwhile.
    """
    copies = [pair for run in runs for pair in run.sparse_copy()]
    if not copies:
        yield
        return
    weights, phase = [weight for weight, _ in copies], transaction.phase
    dense = [weight.tensor.detach().clone() for weight in weights]
    transaction.phase = "shown"
    try:
        _write(weights, (copy for _, copy in copies))
        yield
    finally:
        _write(weights, dense)
        transaction.phase = phase


@torch.no_grad()
def _write(weights: Iterable[Weight], values: Iterable[Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.tensor.copy_(value)


@torch.no_grad()
def project_into(model: nn.Module, masks: Masks, runs: Sequence[Run]) -> None:
    """Write masks into another model of the same names, which follows whatever else runs have made of this one.

    Raises StateError, and changes nothing, where it differs.
    """
    named = Named(model)
    found = [(masked, named.get(masked.weight).detach()) for masked in masks]
    for masked, tensor in found:
        if tensor.shape != masked.mask.shape:
            name, shapes = masked.weight.parameter_name, (list(tensor.shape), list(masked.mask.shape))
            raise StateError(f"{name} is {shapes[0]} in the model given to project(), its mask {shapes[1]}")
    for run in runs:
        run.follow(unwrap(model))
    for masked, tensor in found:
        project_(tensor, masked.mask.to(tensor.device))
