"""Activations that a linear layer's kernel can take, found by running the model on a sample.

What counts is what happens, not what modules are called: an activation module that is called once, is given the very
tensor that a linear layer returned, and computes on probes what the engine's activation computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsify.linears import run_on

TOLERANCE = 1e-6
"""How far an activation may be from the engine's on a probe, in units of 1 + |x|."""

REFERENCES: dict[str, Any] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
}


class Fused(nn.Module):
    """An activation that the layer before it has taken already."""

    sparsify_dense: type[nn.Module]

    def forward(self, x: Tensor) -> Tensor:
        """Hand on what is given."""
        return x


def take(module: nn.Module, fused_class: type[Fused] = Fused) -> None:
    """Let an activation module, or another, hand on what it is given, in place."""
    made: Any = module
    dense = type(module)
    made.__class__ = fused_class
    made.sparsify_dense = dense


def give_back(module: nn.Module) -> bool:
    """Let an activation module compute again; returns whether it had been taken."""
    if not isinstance(module, Fused):
        return False
    dense = module.__dict__.pop("sparsify_dense")
    module.__class__ = dense
    return True


def followers(model: nn.Module, layers: Mapping[str, nn.Module], sample: Any) -> dict[str, tuple[str, str]]:
    """Return (name of the activation's module, activation) by the name of the layer that it follows.

    Raises KernelError where the model cannot be run on the sample.
    """
    candidates = {name: module for name, module in model.named_modules() if _may_be_an_activation(module)}
    once = handed_on(model, layers, candidates, sample)
    known = {layer: (name, activation_of(candidates[name])) for layer, name in once.items()}
    return {layer: (name, activation) for layer, (name, activation) in known.items() if activation is not None}


def handed_on(
    model: nn.Module, layers: Mapping[str, nn.Module], candidates: Mapping[str, nn.Module], sample: Any
) -> dict[str, str]:
    """Return layer → candidate where one is called once, with just what the other, called once, returned, unchanged.

    Raises KernelError where the model cannot be run on the sample.
    """
    calls: dict[str, int] = {}
    made: dict[str, tuple[Tensor, Any]] = {}
    found: dict[str, str] = {}

    def after(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            if isinstance(output, Tensor):
                made[name] = output, _state(output)

        return hook

    def before(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            calls[name] = calls.get(name, 0) + 1
            for layer, (output, state) in made.items():
                if len(args) == 1 and args[0] is output and _is_still(output, state):
                    found[layer] = name

        return hook

    handles = [module.register_forward_hook(after(name)) for name, module in layers.items()]
    handles += [module.register_forward_pre_hook(before(name)) for name, module in candidates.items()]
    try:
        run_on(model, sample, "the model cannot be run on the sample")
    finally:
        for handle in handles:
            handle.remove()
    return {layer: name for layer, name in found.items() if calls[layer] == 1 and calls[name] == 1}


def _state(output: Tensor) -> Any:
    """Return what shows a change in place (`hidden += residual`): torch's count, or a copy where there is none."""
    return output.clone() if output.is_inference() else output._version


def _is_still(output: Tensor, state: Any) -> bool:
    if isinstance(state, Tensor):
        return bool(torch.equal(output.nan_to_num(), state.nan_to_num()))
    return bool(output._version == state)


def _may_be_an_activation(module: nn.Module) -> bool:
    """Whether a module has nothing of its own to compute with."""
    empty = not any(True for _ in module.parameters()) and not any(True for _ in module.buffers())
    idle = isinstance(module, (nn.Identity, nn.Dropout)) or bool(list(module.children()))
    return empty and not idle and not is_hooked(module)


def is_hooked(module: nn.Module) -> bool:
    """Whether somebody has hooks on a module, or a forward in its place."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


@torch.no_grad()
def activation_of(module: nn.Module) -> str | None:
    """Return which of the engine's activations a module computes, by trying; None for another."""
    generator = torch.Generator().manual_seed(0)
    probes = [torch.linspace(-30, 30, 1200).view(3, -1), 3 * torch.randn(2, 5, 40, generator=generator)]
    for name, reference in REFERENCES.items():
        if all(_alike(module, reference, probe) for probe in probes):
            return name
    return None


def _alike(module: nn.Module, reference: Any, probe: Tensor) -> bool:
    try:
        given = module(probe.clone())
    except Exception:  # whatever a module does with what it does not take
        return False
    wanted = reference(probe)
    if not isinstance(given, Tensor) or given.shape != wanted.shape or given.dtype != wanted.dtype:
        return False
    return bool(((given - wanted).abs() <= TOLERANCE * (1 + probe.abs())).all())
