"""Models that are measured beside each other: loaded, alike in what they take, and the inputs that all of them get."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os.path import abspath, commonpath
from pathlib import Path

from torch import nn

from sparsify import density
from sparsify.benchmarking.engines import Inputs
from sparsify.benchmarking.loading import load_model
from sparsify.benchmarking.results import Model
from sparsify.errors import BenchmarkError
from sparsify.export.signature import Signature, signature_of
from sparsify.outcome import REPORT
from sparsify.pretrained import positions
from sparsify.report import saved
from sparsify.report.size import size_of
from sparsify.report.written import read_written

USUAL_LENGTH = 128
TIMES = {"runtime", "samples_per_second", "steps_per_second"}
"""What a trainer writes beside metrics: how long its evaluation took."""

OPTIONAL = {"attention_mask", "token_type_ids"}
"""Inputs that one model may take and another not, for the same texts."""


@dataclass(frozen=True)
class Subject:
    """A model of a folder or a packed file, and what is known before it runs."""

    folder: Path
    model: nn.Module
    signature: Signature
    limited: bool
    """Whether its configuration says how many positions it has."""

    about: Model


def subjects(folders: Sequence[Path]) -> list[Subject]:
    """Load the models of folders and packed files.

    Raises StateError or PlanError for one of them, BenchmarkError where they take other inputs.
    """
    files = [saved.find(folder) for folder in folders]  # what is missing is said before anything is loaded
    found = [_subject(folder, each, label) for folder, each, label in zip(folders, files, labels(folders), strict=True)]
    for other in found[1:]:
        _check_alike(found[0], other)
    return found


def labels(folders: Sequence[Path]) -> list[str]:
    """Return a short name for each folder: its own, or what comes after the folder that all lie in; all different."""
    whole = [Path(abspath(folder)) for folder in folders]
    names = [path.name or str(path) for path in whole]
    if len(set(names)) < len(set(whole)):
        shared = Path(commonpath(whole))
        names = [str(path.relative_to(shared)) if path != shared else path.name for path in whole]
    if len(set(names)) == len(names):
        return names
    return [f"{name} ({place})" for place, name in enumerate(names, 1)]


def inputs_of(found: Sequence[Subject], batch: int, length: int | None) -> list[Inputs]:
    """Return the same random inputs for every model: whole texts without padding, or images.

    Raises BenchmarkError for texts that are longer than a model has positions for.
    """
    first = found[0].signature
    if first.image is not None or length is None:
        return [first.sample(batch, 0, seed=0) for _ in found]
    for subject in found:
        most = subject.signature.longest
        if subject.limited and length > most:
            raise BenchmarkError(f"{subject.folder}: --seq-len {length}: the model has positions for {most} tokens")
    vocabulary = min(subject.signature.vocabulary for subject in found)
    axes = {name: varying for subject in found for name, varying in subject.signature.axes.items()}
    made = replace(first, axes=axes, longest=length, vocabulary=vocabulary).sample(batch, length, seed=0)
    made = {name: tensor.fill_(1) if name.endswith("attention_mask") else tensor for name, tensor in made.items()}
    return [{name: made[name] for name in subject.signature.axes} for subject in found]


def usual_length(found: Sequence[Subject]) -> int | None:
    """Return the tokens of a text where nobody says so; None for images."""
    if found[0].signature.image is not None:
        return None
    return min(USUAL_LENGTH, *(subject.signature.longest for subject in found))


def _subject(folder: Path, files: saved.Saved, label: str) -> Subject:
    model = load_model(folder)
    with files.beside() as beside:
        signature = signature_of(model, beside)
        written = read_written(beside / REPORT).metrics
    counted = density.measure(model).layers
    size = size_of(files.files)
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}.values()
    metrics = {name: value for name, value in written.items() if math.isfinite(value) and name not in TIMES}
    about = Model(
        name=label,
        folder=str(folder),
        kind=type(model).__name__,
        weights=counted.elements,
        zeros=counted.elements - counted.nonzeros,
        disk=size.raw,
        compressed=size.zstd,
        level=size.level,
        memory=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        metrics=metrics,
    )
    return Subject(folder, model, signature, positions(model.config) is not None, about)


def _check_alike(one: Subject, other: Subject) -> None:
    takes = [sorted({*subject.signature.axes} - OPTIONAL) for subject in (one, other)]
    if takes[0] != takes[1]:
        both = [f"{s.folder} takes {', '.join(names)}" for s, names in zip((one, other), takes, strict=True)]
        raise BenchmarkError(f"{both[0]}, but {both[1]}: only models of the same inputs can be compared")
    sizes = [subject.signature.image for subject in (one, other)]
    if sizes[0] != sizes[1]:
        shown = [" × ".join(map(str, size or ())) for size in sizes]
        raise BenchmarkError(
            f"{one.folder} takes images of {shown[0]}, but {other.folder} of {shown[1]}: only models of the same "
            "inputs can be compared"
        )
