"""Image classification: a folder of a folder per class, files named in a table, or a dataset with images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.errors import DataError, first_line
from sparsify.files import check_regular
from sparsify.pretrained import image_processor
from sparsify.train import metrics, table
from sparsify.train.columns import IMAGES
from sparsify.train.labelled import Inputs, Side, prepare
from sparsify.train.settings import Settings
from sparsify.train.table import Table
from sparsify.train.task import Encoded, Task

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
CACHE = 1 << 30
"""Bytes of prepared images that are kept in memory."""


def read(source: str, split: str, known: Sequence[str]) -> Table:
    """Read a folder whose subfolders are the classes, or whatever `table.read` reads."""
    folder = Path(source)
    classes = [child for child in sorted(folder.iterdir()) if child.is_dir()] if folder.is_dir() else []
    files = [
        (path, child.name) for child in classes for path in sorted(child.rglob("*")) if path.suffix.lower() in ENDINGS
    ]
    if not files:
        return table.read(source, split, known)
    paths = [str(path) for path, _ in files]
    for path in paths:
        try:
            check_regular(path)
        except OSError as error:
            raise DataError(f"{path}: no image that can be read: {error.strerror}") from None
    return Table(source, {"image": paths, "label": [name for _, name in files]}, files=paths)


class Images(torch.utils.data.Dataset[dict[str, Any]]):
    """Decodes and prepares an image when it is asked for; keeps what fits into memory."""

    def __init__(self, side: Side, processor: Any, mode: str) -> None:
        self.side, self.processor, self.mode = side, processor, mode
        self.images = side.table.columns[side.columns.inputs[0]]
        self.kept: dict[int, Tensor] = {}
        self.room = CACHE

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        pixels = self.kept.get(index)
        if pixels is None:
            pixels = self._prepare(index)
            self.room -= pixels.nbytes
            if self.room > 0:
                self.kept[index] = pixels
        return {"pixel_values": pixels, "labels": self.side.targets[index]}

    def _prepare(self, index: int) -> Tensor:
        try:
            image = _open(self.images[index], Path(self.side.table.name).parent).convert(self.mode)
            pixels: Tensor = self.processor(images=image, return_tensors="pt")["pixel_values"][0]
        except Exception as error:  # what reads images raises of every kind
            raise DataError(f"{self.side.table.place(index)}: no image that can be read: {first_line(error)}") from None
        return pixels


def _open(value: Any, folder: Path) -> Any:
    """Return a PIL image from a path (relative to the table), bytes, a dataset's {bytes, path}, or an image."""
    from PIL import Image

    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        path = Path(value)
        path = path if path.is_absolute() or path.exists() else folder / path
        check_regular(path)
        value = path.read_bytes()
    if not isinstance(value, bytes):
        return value
    with Image.open(io.BytesIO(value)) as opened:
        opened.load()
        return opened


def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Return a batch: `pixel_values` float32 [n, channels, height, width], `labels` int64 [n]."""
    pixels = torch.stack([row["pixel_values"] for row in rows])
    return {"pixel_values": pixels, "labels": torch.tensor([row["labels"] for row in rows])}


def encode(settings: Settings, config: Any, model: nn.Module, train: Side, evaluation: Side) -> Encoded:
    """Return both sides as images; look at one of each. Raises PlanError for a model without an image processor."""
    processor = image_processor(settings.model)
    mode = "L" if getattr(config, "num_channels", 3) == 1 else "RGB"
    first, second = (Images(side, processor, mode) for side in (train, evaluation))
    for images in (first, second):
        images[0]
    return Encoded(first, second, None, collate, processor)


INPUTS = Inputs(IMAGES, "--image-column", read, encode)
TASK = Task("image-classification", partial(prepare, INPUTS), metrics.CLASSIFICATION)
