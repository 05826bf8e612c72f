"""The demo's model and data as files, to try `sparsify train` on: images in folders by class, an untrained ViT."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from sparsify.checkpoint import write_text
from sparsify.demo.task import Digits, digits, vit


def write_files(directory: Path, seed: int) -> dict[str, Path]:
    """Write `model/`, `train/` and `eval/` (a folder of PNGs for each digit) below `directory`; return the three."""
    train, test = digits()
    places = {"model": directory / "model", "train": directory / "train", "eval": directory / "eval"}
    write_model(places["model"], seed)
    for name, data in (("train", train), ("eval", test)):
        _write_images(places[name], data)
    return places


def write_model(folder: Path, seed: int) -> Path:
    """Write the demo's ViT with random weights, and the image processor that goes with it."""
    model = vit(seed)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)  # type: ignore[operator]
    processor = {
        "image_processor_type": "ViTImageProcessorPil",
        "do_resize": True,
        "size": {"height": 8, "width": 8},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5],
        "image_std": [0.5],
    }
    write_text(folder / "preprocessor_config.json", json.dumps(processor, indent=2) + "\n")
    return folder


def _write_images(folder: Path, data: Digits) -> None:
    for number, (image, label) in enumerate(zip(data.images, data.labels.tolist(), strict=True)):
        place = folder / str(label) / f"{number:04}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        _save(image, place)


def _save(image: Tensor, path: Path) -> None:
    from PIL import Image

    grey = ((image[0] + 1) * 127.5).round().byte()  # from [−1, 1]
    Image.fromarray(grey.numpy()).save(path)
