"""How much layers matter, measured on data: how far they turn the hidden states that flow through them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from sparsify.errors import PlanError, first_line
from sparsify.progress import counted

Tokens = Literal["all", "last"]
MASKS = ("decoder_attention_mask", "attention_mask")
"""Where a batch says which tokens are no padding; the decoder's own comes first in a decoder."""


def block_influence(
    model: nn.Module, layers: Sequence[nn.Module], batches: Iterable[Any], tokens: Tokens = "all"
) -> list[float]:
    """Return 1 − E[cos(x_l, x_l+1)] of every layer: x_l goes in, x_l+1 comes out; 0 for one that changes nothing.

    `batches` are mappings (given to the model by name), tensors, or tuples that begin with one of them. Weights,
    buffers, modes and random numbers are as before afterwards. Raises PlanError for data that the model cannot read.
    Source: Men et al., "ShortGPT" (2024).
    """
    total = _Mean(len(layers))
    for states in _states(model, layers, batches, tokens):
        total.add([cosine_similarity(before, after, dim=-1) for before, after in states])
    return [1 - mean for mean in total.means()]


def angular_distances(
    model: nn.Module, layers: Sequence[nn.Module], batches: Iterable[Any], block: int, tokens: Tokens = "last"
) -> list[float]:
    """Return E[arccos(cos(x_l, x_l+n))] ÷ π for every block of n layers in a row, by its first layer.

    As `block_influence` otherwise. Source: Gromov et al., "The Unreasonable Ineffectiveness of the Deeper Layers"
    (2024).
    """
    total = _Mean(len(layers) - block + 1)
    for states in _states(model, layers, batches, tokens):
        pairs = [(states[first][0], states[first + block - 1][1]) for first in range(len(layers) - block + 1)]
        cosines = [cosine_similarity(before, after.to(before.device), dim=-1) for before, after in pairs]
        total.add([cosine.clamp(-1, 1).arccos() / math.pi for cosine in cosines])
    return total.means()


class _Mean:
    """Means over tokens."""

    def __init__(self, count: int) -> None:
        self.sums, self.tokens = [0.0] * count, 0

    def add(self, values: Sequence[Tensor]) -> None:
        self.tokens += values[0].numel()
        self.sums = [total + float(each.double().sum()) for total, each in zip(self.sums, values, strict=True)]

    def means(self) -> list[float]:
        if not self.tokens:
            raise PlanError("the calibration data have no tokens to measure layers on")
        means = [total / self.tokens for total in self.sums]
        if not all(map(math.isfinite, means)):
            raise PlanError("hidden states on the calibration data are not finite: no layer can be measured")
        return means


def _states(
    model: nn.Module, layers: Sequence[nn.Module], batches: Iterable[Any], tokens: Tokens
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Yield, for every batch, what goes into each layer and what comes out; float32 [tokens, features]."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    decoder = any("decoder" in type(layer).__name__.lower() for layer in layers)
    with _undisturbed(model), _recorded(layers) as seen:
        for number, batch in enumerate(_checked(batches), 1):
            seen.clear()
            inputs = _moved(batch[0] if isinstance(batch, (list, tuple)) and batch else batch, device)
            try:
                model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
            except Exception as error:  # whatever a model does with data that are not its own
                raise PlanError(
                    f"calibration batch {number}: {type(model).__name__} cannot read it: {first_line(error)}"
                ) from None
            if len(seen) != len(layers):
                raise PlanError(f"calibration batch {number} does not pass through every layer")
            mask = _mask(inputs, decoder) if isinstance(inputs, Mapping) else None
            pairs = [seen[id(layer)] for layer in layers]
            yield [(_chosen(before, mask, tokens), _chosen(after, mask, tokens)) for before, after in pairs]


def _checked(batches: Any) -> Iterator[Any]:
    if isinstance(batches, (Mapping, Tensor, str, bytes)) or not isinstance(batches, Iterable):
        raise PlanError(
            f"calibration data are batches, one after the other (a list, a DataLoader), got {_kind(batches)}"
        )
    total = len(batches) if isinstance(batches, Sized) else None
    yield from counted("measuring layers", batches, total)


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: each.to(device) if isinstance(each, Tensor) else each for key, each in value.items()}
    raise PlanError(f"a calibration batch is a mapping of tensors, a tensor, or a tuple of them, got {_kind(value)}")


def _mask(inputs: Mapping[str, Any], decoder: bool) -> Tensor | None:
    """Return which tokens of a batch are no padding (bool), or None where it does not say."""
    encoded = decoder and any(name.startswith("decoder_") for name in inputs)
    for name in MASKS[:1] if encoded else MASKS[1:]:
        if isinstance(inputs.get(name), Tensor):
            return inputs[name].bool()  # type: ignore[no-any-return]
    return None


def _chosen(hidden: Tensor, mask: Tensor | None, tokens: Tokens) -> Tensor:
    """Return the hidden states of the tokens that count; float32 [tokens, features].

    Images that are still images, [n, channels, height, width], have a token for each pixel.
    """
    if hidden.dim() == 4:
        hidden = hidden.flatten(2).transpose(1, 2)
    if hidden.dim() == 2:
        hidden = hidden.unsqueeze(1)
    if mask is None or mask.shape != hidden.shape[:2]:
        mask = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
    mask = mask.to(hidden.device)
    if tokens == "last":
        places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
        last = (mask * places).argmax(1)
        mask = mask & (places - 1 == last.unsqueeze(1))
    return hidden[mask].float()


@contextmanager
def _recorded(layers: Sequence[nn.Module]) -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
    """Within it, what goes through layers in a forward is seen: input and output by the layer's id."""
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def hook(layer: nn.Module, arguments: Any, named: Mapping[str, Any], output: Any) -> None:
        before = arguments[0] if arguments else next(iter(named.values()), None)
        after = output[0] if isinstance(output, (list, tuple)) else output
        if isinstance(before, Tensor) and isinstance(after, Tensor):
            seen[id(layer)] = (before, after)

    handles = [layer.register_forward_hook(hook, with_kwargs=True) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Within it the model is in evaluation mode, without gradients; modes and random numbers come back as they were."""
    modes = [(module, module.training) for module in model.modules()]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            model.eval()
            yield
    finally:
        for module, mode in modes:
            module.training = mode
