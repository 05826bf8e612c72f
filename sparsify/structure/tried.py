"""Whether a model without some layers computes what it computes where they hand on what they are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.anatomy import Layer
from sparsify.anatomy.samples import Call, samples
from sparsify.anatomy.trial import flat
from sparsify.anatomy.twin import Twin, UnverifiedError
from sparsify.errors import named_line
from sparsify.structure.change import Dropped
from sparsify.structure.drop import drop

LARGEST = 1 << 31
"""The most weights that a model has that is run as a whole: some seconds, on one core."""

NOBODY = "its family is not declared, and"


def differs(model: nn.Module, layers: Sequence[Layer], change: Dropped) -> str | None:
    """Return why a family that nobody has declared cannot lose layers, or None where it was tried and can.

    Positions, keys or numbers that one layer gives to another, a count of layers in a forward and the like show here:
    a copy of the model with random weights is run without the layers, and with them as if they were not there.
    """
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > LARGEST:
        return f"{NOBODY} it has {count:,} weights, too many to try"
    gone = [layer.name for layer in layers if layer.index in change.removed]
    with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.device("cpu"):
        try:
            twin = Twin(model).model
            run = _runner(twin)
            whole = run()
            handles = [twin.get_submodule(name).register_forward_hook(_skip, with_kwargs=True) for name in gone]
            wanted = run()
            for handle in handles:
                handle.remove()
            drop(twin, change)
            found = run()
        except UnverifiedError as error:
            return f"{NOBODY} it could not be tried ({error})"
        except Exception as error:  # whatever a model that we do not know says
            return f"{NOBODY} it fails without them ({named_line(error)})"
    if whole.shape != wanted.shape or torch.equal(whole, wanted):
        return f"{NOBODY} with random weights they have no effect"
    if found.shape != wanted.shape or not torch.allclose(
        found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max())
    ):
        return f"{NOBODY} without them it computes something else than if they handed on what they are given"
    return None


def _runner(model: nn.Module) -> Callable[[], Tensor]:
    """Return what runs a model on inputs that it takes. Raises UnverifiedError where none are found."""
    reason = "nothing tells what it takes"
    for call in samples(model):

        def run(call: Call = call) -> Tensor:
            torch.manual_seed(0)
            return flat(model(*call[0], **call[1]))

        try:
            if (first := run()).numel() and bool(first.isfinite().all()):
                return run
            reason = "what it computes is not finite"
        except Exception as error:  # whatever a model does with data that are not its own
            reason = named_line(error)
    raise UnverifiedError(reason)


def _skip(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
    """Hand on what a layer was given, in the form in which it returns it."""
    given = arguments[0] if arguments else named["hidden_states"]
    return (given, *output[1:]) if isinstance(output, tuple) else given
