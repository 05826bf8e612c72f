"""A model's folder → ONNX, checked: against ONNX Runtime on random inputs, and zero by zero."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparsify.checkpoint import claim
from sparsify.compaction import compacted
from sparsify.errors import ExportError, StateError, first_line
from sparsify.export.beside import put_beside
from sparsify.export.signature import SHAPES, Signature, signature_of
from sparsify.masking import count_zeros
from sparsify.pretrained import load
from sparsify.progress import task

OPSET = 18
TOLERANCE = 1e-4
EXTERNAL = 1_900_000_000
"""Bytes of weights above which they go to a file beside: a protobuf message ends at 2 GB."""


@dataclass(frozen=True)
class Exported:
    """What was written, and how far it is from the model."""

    path: Path
    opset: int
    inputs: dict[str, list[str | int]]
    outputs: tuple[str, ...]
    bytes: int
    external: bool
    difference: float
    """The largest absolute difference to the model's outputs, over all inputs tried."""

    tried: list[tuple[int, ...]]
    zeros: int
    """Zeros in the weights; as many as in the model."""

    beside: tuple[str, ...] = ()
    """Files of configuration and tokenizer (or image processor) that lie beside the graph."""

    left: tuple[str, ...] = ()
    """Those that do not, since another model's lie there under their names."""

    compacted: tuple[int, int] | None = None
    """Parameters before and after what is dead has left, where that was asked for."""


def export(
    directory: str | Path, path: str | Path, *, opset: int = OPSET, tolerance: float = TOLERANCE, small: bool = False
) -> Exported:
    """Export a folder of transformers, or a packed one, to `path`; batch, and for texts the sequence, may vary.

    With `small` what is dead in the model leaves it before (see `sparsify.compact`); a head and a neuron stay in every
    block. The file appears when it has been checked. Raises ExportError for a model that cannot be exported, or whose
    graph gives other results (over `tolerance`, absolute, for outputs of size 1) or has lost zeros.
    """
    directory, path = Path(directory), Path(path)
    if directory.is_file():
        from sparsify.storage.models import unpacked

        with unpacked(directory) as folder:
            return export(folder, path, opset=opset, tolerance=tolerance, small=small)
    if path.suffix != ".onnx":
        raise ExportError(f"{path}: the name must end in .onnx")
    _check_opset(opset)
    claimed = claim(path)
    with task("loading"):
        model = load(directory)
    counts = None
    if small:
        found = compacted(model, at_least=1)
        model, counts = found.model, found.parameters
    _check_empty(model)
    signature = signature_of(model, directory)
    external = sum(p.numel() * p.element_size() for p in model.parameters()) > EXTERNAL
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            made = Path(folder) / path.name
            with task("exporting"):
                _write_somehow(model, signature, made, opset, external)
            with task("checking"):
                zeros = _check_zeros(model, made, opset)
                difference, tried = _check_results(model, signature, made, tolerance)
            claimed()
            beside, left = put_beside(directory, path.parent)
            for file in sorted(Path(folder).iterdir(), key=lambda file: file == made):  # the graph last
                os.replace(file, path.parent / file.name)
    except OSError as error:
        raise StateError(f"{path} cannot be written: {error.strerror or error}") from None
    files = [path, *([path.parent / f"{path.name}.data"] if external else [])]
    size = sum(file.stat().st_size for file in files)
    inputs = {name: _shape(signature, name) for name in signature.axes}
    return Exported(
        path, opset, inputs, signature.outputs, size, external, difference, tried, zeros, beside, left, counts
    )


def _check_opset(opset: int) -> None:
    """Raise ExportError for a version of the operators that there is not, or that the exporter does not write."""
    from onnx.defs import onnx_opset_version

    newest = int(onnx_opset_version())
    if not OPSET <= opset <= newest:
        raise ExportError(f"opset {opset}: the versions are {OPSET} to {newest} here")


def _check_empty(model: nn.Module) -> None:
    """Raise ExportError for matrices without rows or columns, which ONNX Runtime cannot reshape."""
    empty = next((name for name, parameter in model.named_parameters() if not parameter.numel()), None)
    if empty is not None:
        raise ExportError(
            f"{empty} is empty, which ONNX Runtime cannot run: make the model smaller with --at-least 1, or export the "
            "one before with --compact"
        )


def _shape(signature: Signature, name: str) -> list[str | int]:
    axes = list(signature.axes[name].values())
    return [*axes, *(signature.image or ())]


def _write_somehow(model: nn.Module, signature: Signature, path: Path, opset: int, external: bool) -> None:
    """Write the graph; with the attention written out where it cannot be traced as it is, such as T5's.

    Experts multiply by gathered weights: their other ways loop over what a router chose, or are kernels of their own.
    """
    experts: Any = getattr(model, "set_experts_implementation", None)
    if experts is not None:
        experts("batched_mm")
    try:
        _write(model, signature, path, opset, external)
    except ExportError:
        attention: Any = getattr(model, "set_attn_implementation", None)
        if attention is None:
            raise
        attention("eager")
        _write(model, signature, path, opset, external)


def _write(model: nn.Module, signature: Signature, path: Path, opset: int, external: bool) -> None:
    inputs = signature.sample(*SHAPES[0], seed=0)
    shapes = {
        name: {axis: torch.export.Dim(label) for axis, label in axes.items()} for name, axes in signature.axes.items()
    }
    levels = {logger: logger.level for logger in map(logging.getLogger, ("torch.onnx", "onnxscript"))}
    try:
        with warnings.catch_warnings(), _giving(model, signature.outputs):
            warnings.simplefilter("ignore")  # the exporter's own, about names of axes and its trees
            for logger in levels:
                logger.setLevel(logging.CRITICAL)  # what fails there, our own checks say
            torch.onnx.export(
                model,
                (),
                str(path),
                kwargs=inputs,
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=list(inputs),
                output_names=list(signature.outputs),
                opset_version=opset,
                external_data=external,
                verbose=False,
            )
    except OSError:
        raise
    except Exception as error:  # the exporter raises of every kind
        raise ExportError(
            f"{type(model).__name__} cannot be exported to ONNX: {first_line(error.__cause__ or error)}"
        ) from None
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


@contextmanager
def _giving(model: nn.Module, outputs: tuple[str, ...]) -> Iterator[None]:
    """Let the model return a plain tuple; a module around it would change the names of the weights."""
    forward: Any = model.forward

    @wraps(forward)
    def plain(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
        found = forward(*args, **kwargs, return_dict=True)
        return tuple(found[name] for name in outputs)

    model.forward = plain
    try:
        yield
    finally:
        del model.forward


def _check_zeros(model: nn.Module, path: Path, opset: int) -> int:
    """Return the zeros of the model.

    Raises ExportError unless the graph has the version that was asked for, and every sparse matrix with its zeros.
    """
    import onnx

    found: dict[str, tuple[int, int]] = {}
    graph = onnx.load(str(path))
    written = next((entry.version for entry in graph.opset_import if not entry.domain), None)
    if written != opset:
        raise ExportError(f"opset {opset}: the exporter wrote version {written} instead")
    for tensor in graph.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        found[tensor.name] = (int(array.size), int((array == 0).sum()))
    rest, zeros = Counter(found.values()), 0
    for name, parameter in model.named_parameters():
        wanted = (parameter.numel(), count_zeros(parameter))
        zeros += wanted[1]
        if parameter.dim() < 2 or not wanted[1] or found.get(name) == wanted:
            continue
        if not rest[wanted] and wanted[0] == wanted[1]:  # all of it is zero: the exporter computes what comes of it
            zeros -= wanted[1]
            continue
        if not rest[wanted]:  # transposed ones have another name
            raise ExportError(f"{name} has {wanted[1]:,} zeros of {wanted[0]:,}, but no tensor of the graph has")
        rest[wanted] -= 1
    return zeros


def _check_results(
    model: nn.Module, signature: Signature, path: Path, tolerance: float
) -> tuple[float, list[tuple[int, ...]]]:
    """Return the largest difference to ONNX Runtime, and the shapes tried. Raises ExportError for one too large."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime raises of every kind
        raise ExportError(f"ONNX Runtime {onnxruntime.__version__} cannot load it: {first_line(error)}") from None
    worst, tried = 0.0, []
    for seed, (batch, length) in enumerate(SHAPES):
        inputs = signature.sample(batch, length, seed)
        tried.append(tuple(next(iter(inputs.values())).shape))
        with torch.no_grad():
            wanted = model(**inputs, return_dict=True)
        try:
            got = session.run(list(signature.outputs), {name: tensor.numpy() for name, tensor in inputs.items()})
        except Exception as error:  # the runtime raises of every kind
            raise ExportError(f"ONNX Runtime cannot run it on inputs of {tried[-1]}: {first_line(error)}") from None
        for name, array in zip(signature.outputs, got, strict=True):
            reference = wanted[name]
            off = (torch.from_numpy(array) - reference).abs().max().item()
            if not off <= tolerance * max(1.0, reference.abs().max().item()):
                where = f"{name} for inputs of {tried[-1]}"
                raise ExportError(f"ONNX Runtime differs by {off:.3g} in {where}, more than {tolerance:g}")
            worst = max(worst, off)
    return worst, tried
