"""The linear layers of a model, tried one by one, and converted where that is faster."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sparsify.applied import at_work
from sparsify.choices import check, verdict
from sparsify.errors import KernelError, first_line
from sparsify.layers import unwrap
from sparsify.linears import Linear, linears, rows_seen, run_on, shared
from sparsify.semi.chosen import Choice, Chosen
from sparsify.semi.converting import convert, restore
from sparsify.semi.kernels import Kernels, of_torch
from sparsify.semi.rules import unfit
from sparsify.semi.trial import tried

TOKENS = 1024
MARGIN = 0.05


def to_semi_structured(
    model: nn.Module,
    *,
    sample: Any = None,
    tokens: int = TOKENS,
    margin: float = MARGIN,
    choices: Chosen | Mapping[str, Any] | None = None,
    kernels: Kernels | None = None,
) -> Chosen:
    """Keep 2:4 weights of linear layers in the form of torch's sparse kernels, where a trial is faster; for inference.

    A layer qualifies by torch's own rules: CUDA, float16 or bfloat16 (float32 with CUTLASS), sizes that are multiples
    of what the backend asks for, at most two non-zeros of every four inputs, a weight of its own. Each that does is run
    dense and sparse in turn, on `tokens` rows, or on as many as it gets when the model is run on `sample` (a tensor, a
    tuple of arguments, or a mapping by name), and converted if it is faster by `margin`. With a `sample` the model is
    run once more at the end; where it fails, everything is as it was. Layers are changed in place; names and keys of a
    state stay, `to_dense` takes it back. `choices`, what was returned before, are made again without a trial.

    Raises KernelError on a CPU, while a manager is at work, and for choices that this model cannot follow.

    Examples:
        >>> import torch, sparsify
        >>> sparsify.to_semi_structured(torch.nn.Sequential(torch.nn.Linear(64, 64)))
        Traceback (most recent call last):
        sparsify.errors.KernelError: the model is on the CPU, and torch's 2:4 kernels are for CUDA alone. ...
    """
    base = unwrap(model)
    layers = list(linears(base))
    _check(base, layers, tokens, margin)
    kernels = kernels if kernels is not None else of_torch(_device(base))
    ties = shared(base)
    reasons = {layer.name: unfit(layer, ties, kernels) for layer in layers}
    if choices is not None:
        return _follow(layers, reasons, choices, kernels)
    counts = rows_seen(base, [(layer.name, layer.module) for layer in layers], sample) if sample is not None else {}
    found: list[Choice] = []
    try:
        for layer in layers:
            called = counts.get(layer.name, 0) if sample is not None else tokens
            reason = reasons[layer.name] or ("" if called else "the model does not call it on the sample")
            stays = Choice(layer.name, layer.shape, False, reason)
            found.append(stays if reason else _chosen(layer, called, margin, kernels))
        if sample is not None and any(choice.sparse for choice in found):
            run_on(base, sample, "with its sparse weights the model fails, and has its dense ones again")
    except BaseException:
        mine = {choice.layer for choice in found if choice.sparse}
        for layer in layers:
            if layer.name in mine:
                restore(layer.module)
        raise
    return Chosen(tuple(found), kernels.name)


def _check(model: nn.Module, layers: list[Linear], tokens: int, margin: float) -> None:
    if at_work(model):
        raise KernelError(
            "a manager is still applied to the model: call finalize() first; kernels need weights that no longer change"
        )
    if not layers:
        raise KernelError(f"{type(model).__name__} has no `nn.Linear`, and torch has 2:4 kernels for no other layer")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise KernelError(f"{type(model).__name__} has no weights (they are on the meta device)")
    if tokens < 1:
        raise KernelError(f"tokens is {tokens}: a trial needs 1 or more")
    if not (0 <= margin < math.inf):
        raise KernelError(f"margin is {margin}: it is 0 or more, 0.05 for 5 % faster")


def _device(model: nn.Module) -> torch.device:
    """Return the first CUDA device of a model's weights, else where they are."""
    devices = [parameter.device for parameter in model.parameters()]
    return next((device for device in devices if device.type == "cuda"), devices[0])


def _chosen(layer: Linear, tokens: int, margin: float, kernels: Kernels) -> Choice:
    """Try a layer, and convert it where that is faster by the margin."""
    try:
        compressed = kernels.compress(layer.module.weight.detach())
        trial = tried(layer, compressed, tokens, kernels)
    except (RuntimeError, NotImplementedError) as error:  # what the kernels refuse, whatever their tables say
        return Choice(layer.name, layer.shape, False, f"the kernels fail: {first_line(error)}", tokens)
    if trial.wrong:
        return Choice(layer.name, layer.shape, False, trial.wrong, tokens)
    faster = trial.dense / trial.sparse if trial.sparse else 1.0
    why = verdict(faster, margin)
    if not why:
        convert(layer.module, compressed, kernels)
    return Choice(layer.name, layer.shape, not why, why, tokens, trial.dense, trial.sparse)


def _follow(
    layers: list[Linear], reasons: dict[str, str], choices: Chosen | Mapping[str, Any], kernels: Kernels
) -> Chosen:
    """Convert the layers that were chosen before; all of them, or none. Raises KernelError."""
    given = choices if isinstance(choices, Chosen) else Chosen.from_dict(choices)
    mine = {layer.name: layer for layer in layers}
    check(given.layers, mine, reasons)
    try:
        compressed = {name: kernels.compress(mine[name].module.weight.detach()) for name in given.sparse}
    except (RuntimeError, NotImplementedError) as error:
        raise KernelError(f"the chosen layers cannot be converted: {first_line(error)}") from None
    for name, weight in compressed.items():
        if not torch.equal(kernels.dense(weight), mine[name].module.weight):
            raise KernelError(f"{name} cannot be converted: its compressed weight is another one when it is unpacked")
    for name, weight in compressed.items():
        convert(mine[name].module, weight, kernels)
    return Chosen(given.layers, kernels.name)
