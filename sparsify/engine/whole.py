"""Linear layers and convolutions of a model, tried one by one, and multiplied by the engine where that is faster."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.anatomy.outputs import tensors
from sparsify.applied import at_work
from sparsify.choices import check, verdict
from sparsify.engine import attending, convolutional, fusing, norms
from sparsify.engine.chosen import DENSE, KERNELS, Choice, Chosen
from sparsify.engine.layer import Sparse, to_dense, to_sparse
from sparsify.engine.library import instructions
from sparsify.engine.operator import ACTIVATIONS
from sparsify.engine.packed import pack
from sparsify.engine.rules import Convolution, Layer, layers_of, unfit, worth_a_trial, zeros_of
from sparsify.engine.trial import places, tried
from sparsify.errors import KernelError
from sparsify.layers import unwrap
from sparsify.linears import inputs_seen, run_on, shared

TOKENS = 256
MARGIN = 0.05
NOT_CALLED = "the model does not call it on the sample"
TOLERANCE = 1e-3
"""How far the outputs of the whole model may be from the dense ones, relative to the largest."""


def accelerate(
    model: nn.Module,
    *,
    sample: Any = None,
    tokens: int = TOKENS,
    margin: float = MARGIN,
    choices: Chosen | Mapping[str, Any] | None = None,
    keep_dense: bool = True,
) -> Chosen:
    """Let the sparse engine multiply by the weights of linear layers and convolutions where that is faster than torch.

    For inference. Each `nn.Linear`, Conv1D, `nn.Conv2d` and `nn.Conv1d` of float32 on the CPU with enough zeros is
    timed with torch's dense product and the engine's kernels, on `tokens` rows, or on what it gets when the model is
    run on `sample` (a tensor, a tuple of arguments, or a mapping by name; convolutions need one), and is changed where
    one is faster by `margin`. With a `sample`, batch norms behind convolutions and activations right behind layers are
    taken by the kernels, and the whole model is compared with itself: where its outputs differ everything is as it was.
    Attention in transformers is then the engine's if that is faster on the sample's sizes and masks. Layers are changed
    in place: parameters, names and the keys of a state stay; `restore` takes it back. `choices`, what was returned
    before, are made again without a trial. Without `keep_dense` the dense weights of sparse layers are let go: their
    memory is free, a state has them all the same (made of the packed ones), and every zero that comes back is +0.0.

    Raises KernelError where the engine does not work, while a manager is at work, where the outputs differ, and for
    choices that this model cannot follow.
    """
    base = unwrap(model)
    layers = list(layers_of(base))
    _check(base, layers, tokens, margin)
    where = f"{instructions()}, {torch.get_num_threads()} threads"
    ties = shared(base)
    reasons = {layer.name: unfit(layer, ties) for layer in layers}
    before = run_on(base, sample, "the model cannot be run on the sample") if sample is not None else None
    if choices is not None:
        given = choices if isinstance(choices, Chosen) else Chosen.from_dict(choices)
        found, attention, faster = _followed(base, layers, reasons, given), given.attention, given.attention_faster
    else:
        found = _tried(base, layers, reasons, sample, tokens, margin)
        sparse = sample is not None and any(choice.sparse for choice in found)
        faster = attending.choose(base, sample) if sparse else None
        attention = faster is not None and not verdict(faster, margin)
    try:
        _make(base, layers, found, keep_dense, {})
        _attend(base, attention)
        if sample is not None and any(choice.sparse for choice in found):
            _compare(before, run_on(base, sample, "with sparse layers the model fails, and has its dense ones again"))
    except BaseException:
        _undo(base, {name for choice in found for name in (choice.layer, choice.fused, choice.norm)})
        raise
    return Chosen(tuple(found), where, attention, faster)


def follow(model: nn.Module, chosen: Chosen, ready: Mapping[str, Tensor]) -> None:
    """Make choices on a model for inference, without its dense weights.

    `ready` are packed weights by layer: what their layers hold is not looked at. Raises KernelError for choices that
    cannot be followed.
    """
    layers = list(layers_of(model))
    _check(model, layers, TOKENS, MARGIN)
    ties = shared(model)
    reasons = {layer.name: unfit(layer, ties) for layer in layers}
    _make(model, layers, _followed(model, layers, reasons, chosen), False, ready)
    _attend(model, chosen.attention)


def _attend(model: nn.Module, attention: bool) -> None:
    if attention and not attending.take(model):
        raise KernelError("choices have the engine's attention, which this model or its transformers cannot take")


def restore(model: nn.Module) -> tuple[str, ...]:
    """Give a model the dense layers back that `accelerate` changed, and return their names. Nothing else is touched.

    Raises KernelError while a manager is at work.
    """
    base = unwrap(model)
    if at_work(base):
        raise KernelError("a manager is at work on the model: call finalize() first")
    names = [name for name, module in base.named_modules() if to_dense(module)]
    for module in base.modules():
        fusing.give_back(module)
    attending.give_back(base)
    return tuple(names)


def _check(model: nn.Module, layers: list[Layer], tokens: int, margin: float) -> None:
    if at_work(model):
        raise KernelError(
            "a manager is at work on the model: call finalize() first; the engine wants weights that stay"
        )
    if not layers:
        raise KernelError(
            f"{type(model).__name__} has neither linear layers nor convolutions, and the engine multiplies for no other"
        )
    packed = {id(module.weight) for module in model.modules() if isinstance(module, Sparse)}
    if any(parameter.is_meta and id(parameter) not in packed for parameter in model.parameters()):
        raise KernelError(f"{type(model).__name__} has no weights (they are on the meta device)")
    if type(tokens) is not int or tokens < 1:
        raise KernelError(f"tokens is {tokens}: a trial needs 1 or more")
    if not (0 <= margin < math.inf):
        raise KernelError(f"margin is {margin}: it is 0 or more, 0.05 for 5 % faster")


def _tried(
    model: nn.Module, layers: list[Layer], reasons: dict[str, str], sample: Any, tokens: int, margin: float
) -> list[Choice]:
    """Return what is best for each layer, and which activations go with it."""
    seen = inputs_seen(model, [(each.name, each.module) for each in layers], sample) if sample is not None else {}
    found: list[Choice] = []
    for layer in layers:
        given = seen.get(layer.name)
        if sample is None and not isinstance(layer, Convolution):
            given = torch.empty(tokens, layer.shape[1], device="meta")
        reason = reasons[layer.name] or ("" if given is not None and given.numel() else _untried(sample))
        if reason or given is None:
            found.append(Choice(layer.name, layer.shape, why=reason))
        else:
            found.append(_best(layer, given, margin))
    return found if sample is None else _with_followers(model, layers, found, sample)


def _untried(sample: Any) -> str:
    return "the size of its inputs is not known without a sample" if sample is None else NOT_CALLED


def _with_followers(model: nn.Module, layers: list[Layer], found: list[Choice], sample: Any) -> list[Choice]:
    """Return choices with the norms and activations that kernels can take."""
    modules, sparse = dict(model.named_modules()), {choice.layer for choice in found if choice.sparse}
    mine = {each.name: each for each in layers if each.name in sparse}
    kinds = {name: each.module for name, each in mine.items() if isinstance(each, Convolution)}
    norm_of = norms.followers(model, kinds, sample) if kinds else {}
    last = {name: norm_of.get(name, name) for name in mine}
    after = fusing.followers(model, {name: modules[name] for name in last.values()}, sample)
    return [
        replace(choice, norm=norm_of.get(choice.layer, ""), fused=name, activation=activation)
        if choice.layer in mine
        else choice
        for choice in found
        for name, activation in [after.get(last.get(choice.layer, ""), ("", "none"))]
    ]


def _best(layer: Layer, given: Tensor, margin: float) -> Choice:
    """Try a layer on inputs of the sizes that `given` has."""
    weight = layer.weight.contiguous()
    packed = {name: pack(weight, KERNELS[name]) for name in worth_a_trial(weight)}
    trial = tried(layer, packed, given)
    tokens = places(layer, given)
    choice = Choice(layer.name, layer.shape, zeros=zeros_of(weight), tokens=tokens, seconds=trial.seconds)
    if trial.wrong or choice.faster is None or choice.best is None:
        return replace(choice, why=trial.wrong)
    why = verdict(choice.faster, margin)
    return replace(choice, why=why) if why else replace(choice, kernel=choice.best)


def _followed(model: nn.Module, layers: list[Layer], reasons: dict[str, str], given: Chosen) -> list[Choice]:
    """Return choices that were given, once it is clear that all of them can be made. Raises KernelError."""
    mine = {layer.name: layer for layer in layers}
    modules = dict(model.named_modules())
    check(given.layers, mine, reasons)
    for choice in given.layers:
        if choice.activation not in ACTIVATIONS or (choice.activation != "none") != bool(choice.fused):
            raise KernelError(f"choices have {choice.layer} with activation {choice.activation!r} of {choice.fused!r}")
        if choice.fused:
            there = modules.get(choice.fused)
            if there is None or fusing.activation_of(there) != choice.activation:
                raise KernelError(f"choices have {choice.fused} as {choice.activation}, which it is not here")
        if choice.norm and not norms.fits(modules[choice.layer], modules.get(choice.norm)):
            raise KernelError(f"choices have {choice.norm} as the batch norm of {choice.layer}, which it is not here")
    return list(given.layers)


def _make(
    model: nn.Module, layers: list[Layer], found: list[Choice], keep_dense: bool, given: Mapping[str, Tensor]
) -> None:
    mine, modules = {layer.name: layer for layer in layers}, dict(model.named_modules())
    ready: list[tuple[Layer, Tensor, Choice]] = []
    for choice in found:
        if choice.kernel != DENSE:
            layer = mine[choice.layer]
            packed = given.get(layer.name)
            if packed is None:
                packed = pack(layer.weight.contiguous(), KERNELS[choice.kernel])
            ready.append((layer, packed, choice))
    for layer, packed, choice in ready:
        to_sparse(layer.module, packed, layer.sparse_class, choice.activation, keep_dense)
        if isinstance(layer, Convolution):
            convolutional.take(layer.module, modules.get(choice.norm) if choice.norm else None)
        if choice.norm:
            norm = modules[choice.norm]
            fusing.take(norm, norms.FUSED[type(norm)])
        if choice.fused:
            fusing.take(modules[choice.fused])


def _undo(model: nn.Module, names: set[str]) -> None:
    for name, module in model.named_modules():
        if name in names:
            to_dense(module)
            fusing.give_back(module)
    attending.give_back(model)


def _compare(before: Any, after: Any) -> None:
    """Raise KernelError where outputs are not the same."""
    for one, two in zip(tensors(before), tensors(after), strict=True):
        largest = max(float(one.abs().max()) if one.numel() else 0.0, 1e-30)
        apart = float((one.float() - two.float()).abs().max()) / largest if one.numel() else 0.0
        if bool(one.isfinite().all()) and not apart <= TOLERANCE:
            raise KernelError(
                f"with sparse layers the model's outputs are off by {apart:.2g} of the largest: it uses a layer or an "
                "activation in a way that a module cannot show, and has its dense layers again"
            )
