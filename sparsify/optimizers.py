"""What we ask of optimizers: the user's (itself, under wrappers; that it fits), and the moments of our own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.errors import PlanError
from sparsify.state_reader import StateReader

MOMENTS: dict[str, tuple[str, ...]] = {"adam": ("exp_avg", "exp_avg_sq"), "sgd": ()}
"""What our optimizers keep for each parameter, of its shape; beside it, Adam keeps `step`."""
NO_MOMENTS = frozenset({"step_size"})
"""What an optimizer keeps in the shape of a parameter, and must never be zero."""
LARGEST_STEP = float(2**53)


def innermost(optimizer: Any) -> torch.optim.Optimizer:
    """Return the torch optimizer under wrappers that keep it in `.optimizer`. Raises PlanError."""
    while isinstance(getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise PlanError(f"expected a torch optimizer, got a {type(optimizer).__name__}")
    return optimizer


def several(given: Any) -> list[Any]:
    """Return the optimizers that `apply` was given, as a list. Raises PlanError for none, or for one given twice."""
    found = list(given) if isinstance(given, (list, tuple)) else [given]
    if not found:
        raise PlanError("apply() was given no optimizer")
    inner = [id(innermost(each)) for each in found]
    if len(set(inner)) < len(inner):
        raise PlanError("apply() was given the same optimizer twice")
    return found


def parameters_of(optimizers: Iterable[torch.optim.Optimizer]) -> Iterator[Tensor]:
    """Yield the parameters that optimizers hold."""
    return (parameter for optimizer in optimizers for group in optimizer.param_groups for parameter in group["params"])


def forget(optimizers: Iterable[torch.optim.Optimizer], parameters: Iterable[Tensor]) -> None:
    """Take parameters out of groups and state, in place: all groups stay, empty ones too, as schedulers count them."""
    gone = {id(parameter) for parameter in parameters}
    for optimizer in optimizers if gone else ():
        for group in optimizer.param_groups:
            stays = [id(parameter) not in gone for parameter in group["params"]]
            for name in ("params", "param_names"):
                if name in group and not all(stays):
                    group[name][:] = [value for value, kept in zip(group[name], stays, strict=True) if kept]
        for parameter in [each for each in optimizer.state if id(each) in gone]:
            del optimizer.state[parameter]


def refuse_other_weights(optimizer: torch.optim.Optimizer) -> None:
    """Raise PlanError for an optimizer that keeps another copy of the weights, which no mask would reach."""
    pair = all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))
    name = type(optimizer).__name__
    if pair or "schedulefree" in name.lower():
        raise PlanError(
            f"{name} keeps another copy of the weights, which it swaps in for evaluation (train() and eval()); masks "
            "do not reach it: use an ordinary optimizer, such as AdamW"
        )


def minimising(optimizers: Iterable[torch.optim.Optimizer], key: str) -> None:
    """Raise PlanError if an optimizer maximizes: what `key` makes of gradients would push the wrong way."""
    if any(group.get("maximize") for optimizer in optimizers for group in optimizer.param_groups):
        raise PlanError(f"{key}: the optimizer maximizes; give it the negative loss to minimize")


def accumulating(optimizers: Iterable[Any]) -> bool:
    """Whether Accelerate says that this micro-batch only accumulates gradients, so that no optimizer will step."""
    return any(getattr(getattr(each, "gradient_state", None), "sync_gradients", True) is False for each in optimizers)


def clip_(optimizers: Sequence[torch.optim.Optimizer], max_norm: float, **options: Any) -> Tensor:
    """Clip the norm of the gradients of the optimizers' parameters together, as torch does; return the norm before."""
    parameters = list(parameters_of(optimizers))
    gradients = [p.grad for p in parameters if p.grad is not None]
    if options or not hasattr(nn.utils, "get_total_norm") or any(g.device.type != "cpu" for g in gradients):
        return nn.utils.clip_grad_norm_(parameters, max_norm, **options)
    norm = nn.utils.get_total_norm(gradients)
    if norm > max_norm:  # torch would multiply by one otherwise; elsewhere asking would wait for the device
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


@torch.no_grad()
def clear_moments(optimizers: Iterable[torch.optim.Optimizer], parameter: nn.Parameter, where: Tensor) -> None:
    """Set what the optimizers keep for some elements of a parameter to zero, as at the beginning of a training.

    `where` is bool, of the parameter's shape. What is kept for the parameter as a whole (Adam's `step`, Adafactor's
    rows and columns), or not as floating-point numbers (eight bits), stays; so do Rprop's step sizes.
    """
    for optimizer in optimizers:
        for name, value in optimizer.state.get(parameter, {}).items():
            kept = isinstance(value, Tensor) and value.is_floating_point() and value.shape == parameter.shape
            if kept and name not in NO_MOMENTS:
                value.masked_fill_(where.to(value.device), 0)


# ---------------------------------------------------------------------- our own


def moments(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
    """Return what our optimizer keeps for a parameter; nothing before its first step."""
    return {name: value for name, value in optimizer.state.get(parameter, {}).items() if isinstance(value, Tensor)}


def check_moments(state: StateReader, kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raise StateError for moments that are not those of such a parameter: torch would write beyond their end."""
    if not list(state):
        return
    names = MOMENTS[kind]
    state.exactly([*names, *(["step"] if names else [])])
    for name in names:
        value = state.tensor(name, shape, dtype)
        if name.endswith("_sq") and bool((value < 0).any()):
            raise state.fail(name, "holds negative squares")
    if names:
        wide = torch.float64 if getattr(state.any("step"), "dtype", None) == torch.float64 else torch.float32
        step = float(state.tensor("step", (), wide))
        if not 0 <= step <= LARGEST_STEP or step != int(step):
            raise state.fail("step", f"expected a whole number of steps, got {step:g}")


def restore_moments(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, saved: Mapping[str, Tensor]) -> None:
    """Put checked moments in place."""
    if not saved:
        return
    state = {name: value.to(parameter.device, copy=True) for name, value in saved.items()}
    optimizer.state[parameter] = state
