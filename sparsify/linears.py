"""Linear layers of a model: which there are, which weights are shared, and how many rows each gets on a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.errors import KernelError, named_line


@dataclass(frozen=True)
class Linear:
    """A linear layer by its name."""

    name: str
    module: nn.Linear

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return self.module.out_features, self.module.in_features


def linears(model: nn.Module) -> Iterator[Linear]:
    """Yield the linear layers of a model, each once, in order."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            yield Linear(name, module)


def shared(model: nn.Module) -> dict[int, list[str]]:
    """Return the names of parameters that have several, by their ids."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {key: several for key, several in names.items() if len(several) > 1}


def not_its_own(name: str, module: nn.Module, forward: Callable[..., Any], ties: dict[int, list[str]]) -> str:
    """Return why a layer does not simply multiply by a weight of its own; empty where it does.

    `forward` is what layers of its kind do.
    """
    weight = module._parameters.get("weight")
    if weight is None:
        return "its weight is computed from others (parametrized)"
    kind = type(module)
    if kind.forward is not forward or "forward" in vars(module) or kind.__name__ == "NonDynamicallyQuantizableLinear":
        return f"a {kind.__name__} uses its weight in its own way"  # the last is a part of nn.MultiheadAttention
    if id(weight) in ties:
        others = [other for other in ties[id(weight)] if other != f"{name}.weight"]
        return f"tied: it is {others[0]} too" if others else "tied"
    return ""


def rows_seen(model: nn.Module, layers: Iterable[tuple[str, nn.Module]], sample: Any) -> dict[str, int]:
    """Return how many rows each layer gets when the model is run once; the most where it is called several times."""
    seen = inputs_seen(model, layers, sample)
    return {name: given.numel() // max(given.shape[-1], 1) for name, given in seen.items()}


def inputs_seen(model: nn.Module, layers: Iterable[tuple[str, nn.Module]], sample: Any) -> dict[str, Tensor]:
    """Return what each layer gets when the model is run once, the largest where it is called several times.

    Tensors on the meta device: sizes and order in memory, no numbers.
    """
    seen: dict[str, Tensor] = {}

    def looking(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor) and (name not in seen or args[0].numel() > seen[name].numel()):
                seen[name] = torch.empty_strided(args[0].shape, args[0].stride(), device="meta")

        return hook

    handles = [module.register_forward_pre_hook(looking(name)) for name, module in layers]
    try:
        run_on(model, sample, "the model cannot be run on the sample")
    finally:
        for handle in handles:
            handle.remove()
    return seen


def run_on(model: nn.Module, sample: Any, failing: str) -> Any:
    """Run a model in evaluation mode, on its own random numbers, and return its outputs.

    `sample` is a tensor, a tuple of arguments, or a mapping by name. Raises KernelError that begins with `failing`.
    """
    args = sample if isinstance(sample, (tuple, list)) else () if isinstance(sample, Mapping) else (sample,)
    named = sample if isinstance(sample, Mapping) else {}
    cards = sorted({each.device.index for each in model.parameters() if each.is_cuda})
    with evaluating(model), torch.random.fork_rng(devices=cards), torch.no_grad():
        try:
            return model(*args, **named)
        except Exception as error:  # whatever a model does
            raise KernelError(f"{failing}: {named_line(error)}") from None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and back."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True
