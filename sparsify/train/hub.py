"""Datasets of the `datasets` library: by hub name, or a local folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsify.errors import DataError, did_you_mean, first_line
from sparsify.files import contents

EVALUATION = ("validation", "dev", "test")
"""Splits to evaluate on, the first that there is, unless one is named."""


def load(source: str, split: str) -> dict[str, Any]:
    """Return name, columns and class names of `NAME[:CONFIG][@SPLIT]`. Raises DataError."""
    import datasets

    datasets.disable_progress_bars()
    rest, _, wanted = source.partition("@")
    name, _, config = rest.partition(":")
    if (name.startswith((".", "/", "~")) or Path(name).suffix or name.count("/") > 1) and not os.path.exists(name):
        near = [str(other) for other in contents(Path(name).parent)]
        raise DataError(f"{name}: no such file or folder{did_you_mean(name, near, most=0)}")
    try:
        if os.path.isfile(Path(name) / "dataset_dict.json") or os.path.isfile(Path(name) / "state.json"):
            found: Any = datasets.load_from_disk(name)
        else:
            found = datasets.load_dataset(name, config or None)
    except Exception as error:  # the library raises of every kind
        if os.path.isdir(name):
            raise DataError(f"{name}: there is no dataset in this folder: {first_line(error)}") from None
        offline = " (offline: HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
        raise DataError(
            f"{name}: no such file, and a dataset of that name cannot be loaded{offline}: {first_line(error)}"
        ) from None
    return {"name": source, **columns_of(_split(source, found, wanted, split))}


def _split(source: str, found: Any, wanted: str, split: str) -> Any:
    """Return the wanted split, or the one that suits."""
    if not isinstance(found, dict):
        return found
    names = [wanted] if wanted else [split] if split == "train" else list(EVALUATION)
    for name in names:
        if name in found:
            return found[name]
    raise DataError(f"{source}: there is no split {names[0]!r}{did_you_mean(names[0], found)}; write {source}@SPLIT")


def columns_of(data: Any) -> dict[str, Any]:
    """Return `columns` and `classes` of a datasets.Dataset; images stay undecoded."""
    import datasets

    classes: dict[str, Sequence[str]] = {}
    for name, feature in data.features.items():
        kind = getattr(feature, "feature", feature)  # of lists of classes, such as tags, that of their elements
        if isinstance(kind, datasets.ClassLabel):
            classes[name] = list(kind.names)
        elif isinstance(feature, datasets.Image):
            data = data.cast_column(name, datasets.Image(decode=False))
    return {"columns": {name: data[name] for name in data.column_names}, "classes": classes}
