"""What is measured of the demo's models, all of them in one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.compaction import save
from sparsify.demo.task import Digits, accuracy
from sparsify.density import Density, measure
from sparsify.errors import ExportError
from sparsify.layers import Weight
from sparsify.report.latency import Call, interleaved
from sparsify.report.size import Size, size_of
from sparsify.storage import pack

IMAGES = 64
RUNTIME = ("onnx", "onnxruntime", "onnxscript")
"""What must be there so that models are measured in ONNX Runtime, too."""


@dataclass(frozen=True)
class Side:
    """What was measured of one model."""

    accuracy: float
    density: Density | None
    """None for the compact one: what was targeted is gone."""

    parameters: int
    size: Size
    packed: int
    """Bytes of the packed folder."""

    milliseconds: float
    runtime: float | None
    """Milliseconds in ONNX Runtime, where that is installed."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "accuracy": self.accuracy,
            "density": None if self.density is None else self.density.to_dict(),
            "parameters": self.parameters,
            "bytes": {**self.size.to_dict(), "packed": self.packed},
            "latency_ms": self.milliseconds,
            "onnxruntime_ms": self.runtime,
        }


def sides(models: dict[str, nn.Module], targeted: list[Weight], test: Digits, directory: Path) -> list[Side]:
    """Save models, by name, into folders of a directory; return what is measured of them, side by side."""
    images = test.images[:IMAGES]
    names = list(models)
    for name, model in models.items():
        save(model.eval(), directory / name)
        pack(directory / name, directory / f"{name}.packed")
    with torch.inference_mode():
        seconds = interleaved([_torch(model, images) for model in models.values()])
    runtimes = _in_runtime([directory / name for name in names], images)
    return [
        Side(
            accuracy(models[name], test),
            measure(models[name], targeted) if name != "compact" else None,
            sum(parameter.numel() for parameter in models[name].parameters()),
            size_of(directory / name / "model.safetensors"),
            (directory / f"{name}.packed").stat().st_size,
            1000 * spent,
            runtime,
        )
        for name, spent, runtime in zip(names, seconds, runtimes, strict=True)
    ]


def _torch(model: nn.Module, images: Tensor) -> Call:
    return lambda: model(pixel_values=images)


def _in_runtime(folders: Sequence[Path], images: Tensor) -> list[float | None]:
    """Return the milliseconds of each folder's model in ONNX Runtime; None where that is not to be had."""
    if any(find_spec(name) is None for name in RUNTIME):
        return [None for _ in folders]
    import onnxruntime

    from sparsify.export.onnx import export

    calls: list[Call] = []
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    for folder in folders:
        try:
            made = export(folder, folder / "model.onnx")
        except ExportError:  # some version of the exporter may not know this model: the rest of the table stands
            return [None for _ in folders]
        session = onnxruntime.InferenceSession(str(made.path), options, providers=["CPUExecutionProvider"])
        given = {"pixel_values": images.numpy()}
        calls.append(lambda session=session, given=given: session.run(None, given))  # type: ignore[misc]
    return [1000 * seconds for seconds in interleaved(calls)]
