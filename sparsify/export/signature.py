"""What a model of transformers takes and gives: names, shapes, which axes may vary."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.errors import ExportError, PlanError, SparsifyError, first_line
from sparsify.pretrained import image_processor, positions

TEXT = ("input_ids", "attention_mask", "token_type_ids")
SQUARE = 640
"""Pixels of an image that an image processor is shown."""

SHAPES = ((2, 9), (1, 8), (3, 17), (2, 64))
"""(batch, sequence) that are tried; the first is what the graph is traced with."""


@dataclass(frozen=True)
class Signature:
    """Inputs by name, each with its varying axes (axis → name), and the names of the outputs."""

    axes: Mapping[str, Mapping[int, str]]
    outputs: tuple[str, ...]
    image: tuple[int, int, int] | None
    """Channels, height, width of an image model."""

    vocabulary: int = 0
    longest: int = 0
    """The most tokens that the model has positions for."""

    def sample(self, batch: int, length: int, seed: int) -> dict[str, Tensor]:
        """Return random inputs; of texts, the second half of the first row is padding."""
        generator = torch.Generator().manual_seed(seed)
        if self.image is not None:
            return {"pixel_values": torch.randn(batch, *self.image, generator=generator)}
        length = min(length, self.longest)
        made: dict[str, Tensor] = {}
        for name in self.axes:
            if name.endswith("input_ids"):
                made[name] = torch.randint(self.vocabulary, (batch, length), generator=generator)
            else:
                made[name] = torch.full((batch, length), int(name.endswith("attention_mask")))
        if "attention_mask" in made and length > 3 and batch > 1:
            made["attention_mask"][0, length // 2 :] = 0
        return made


def signature_of(model: nn.Module, directory: Path) -> Signature:
    """Read the signature off a model and what lies beside it. Raises ExportError unless it takes text or images."""
    try:
        return _signature(model, directory)
    except SparsifyError:
        raise
    except Exception as error:  # whatever a model does with sizes in its configuration that are none
        kind = type(model).__name__
        raise ExportError(
            f"{directory}: {kind} cannot be run on inputs of its own sizes: {first_line(error)}"
        ) from None


def _signature(model: nn.Module, directory: Path) -> Signature:
    takes = inspect.signature(model.forward).parameters
    config: Any = model.config
    if "pixel_values" in takes and "input_ids" not in takes:
        channels = int(getattr(config, "num_channels", 3))
        size = getattr(config, "image_size", None) or _processor_size(directory, channels)
        height, width = (size, size) if isinstance(size, int) else size
        signature = Signature({"pixel_values": {0: "batch"}}, (), (channels, int(height), int(width)))
    elif "input_ids" in takes:
        names = [name for name in TEXT if name in takes and name in _tokenizer_inputs(directory)]
        if getattr(config, "is_encoder_decoder", False) and "SequenceClassification" not in type(model).__name__:
            names.append("decoder_input_ids")
        axes = {name: {0: "batch", 1: "decoder_sequence" if "decoder" in name else "sequence"} for name in names}
        signature = Signature(axes, (), None, int(config.vocab_size), positions(config) or 512)
    else:
        raise ExportError(f"{type(model).__name__} takes {', '.join(takes)}: only text and image models are exported")
    with torch.no_grad():
        found = model(**signature.sample(*SHAPES[0], seed=0), return_dict=True)
    outputs = tuple(name for name, value in found.items() if isinstance(value, Tensor))
    return Signature(signature.axes, outputs, signature.image, signature.vocabulary, signature.longest)


def _tokenizer_inputs(directory: Path) -> tuple[str, ...]:
    """Return what the tokenizer makes; everything where there is none."""
    from transformers import AutoTokenizer

    try:
        return tuple(AutoTokenizer.from_pretrained(directory).model_input_names)
    except Exception:  # the library raises of every kind
        return TEXT


def _processor_size(directory: Path, channels: int) -> tuple[int, int]:
    """Return height and width of what the image processor of a folder makes of a square image."""
    try:
        processor = image_processor(directory)
    except PlanError as error:
        raise ExportError(f"{error}; or put image_size into config.json: nothing says how large images are") from None
    image = torch.zeros(channels, SQUARE, SQUARE, dtype=torch.uint8)
    pixels = processor(images=image, return_tensors="pt")["pixel_values"]
    return int(pixels.shape[-2]), int(pixels.shape[-1])
