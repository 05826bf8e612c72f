"""Finding recipes: by path, or by name along the search path.

The search path is the working folder, the folders in `$SPARSIFY_RECIPES`, the packages that installed
distributions declare under the entry points `sparsify.recipes`, and the built-in library.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path

from sparsify.errors import RecipeError, did_you_mean
from sparsify.files import contents, read_bytes

SUFFIXES = (".yaml", ".yml", ".md")
GROUP = "sparsify.recipes"
BUILT_IN = "sparsify.recipes"
VARIABLE = "SPARSIFY_RECIPES"
MOST_BYTES = 1 << 20
MODIFIERS = re.compile(r"(?:^|[{,\s])[\"']?modifiers[\"']?\s*:", re.MULTILINE)
EXTENDS = re.compile(r"^extends\s*:", re.MULTILINE)
VERSION = re.compile(r"^version\s*:\s*1\s*(?:#.*)?$", re.MULTILINE)
"""What the text of a recipe has: modifiers, or another recipe that it extends."""


def is_path(text: str) -> bool:
    """Whether `text` is meant as a path rather than a name."""
    return text.lower().endswith(SUFFIXES) or "/" in text or os.sep in text


def folders() -> Iterator[tuple[str, Path]]:
    """Yield (label, folder) along the search path; what does not exist is left out."""
    places = [("working folder", Path())]
    listed = os.environ.get(VARIABLE, "")
    places += [(f"${VARIABLE}", Path(os.path.expanduser(part))) for part in listed.split(os.pathsep) if part]
    packages = {entry.value: entry.name for entry in entry_points(group=GROUP)}
    packages.pop(BUILT_IN, None)
    places += [(f"package {value}", _package(value)) for value in sorted(packages)]
    places.append(("built in", _package(BUILT_IN)))
    seen = set()
    for label, folder in places:
        real = _real_folder(folder)
        if real is not None and real not in seen:
            seen.add(real)
            yield label, Path(real)


def _real_folder(folder: Path) -> str | None:
    """Return a folder without its links, or None where there is none (any more)."""
    try:
        return os.path.realpath(folder) if os.path.isdir(folder) else None
    except OSError:
        return None


def _package(name: str) -> Path:
    try:
        return Path(str(files(name)))
    except ModuleNotFoundError:
        return Path(os.devnull)


def names() -> dict[str, tuple[str, Path]]:
    """Return name → (label, file) of every recipe that can be found by name; the first found wins."""
    found: dict[str, tuple[str, Path]] = {}
    for label, folder in folders():
        for path in contents(folder):
            if path.suffix.lower() in SUFFIXES and os.path.isfile(path) and path.stem.lower() != "readme":
                found.setdefault(path.stem, (label, path))
    return found


def means_a_recipe(path: str | Path) -> bool:
    """Whether a file is meant to be a recipe, valid or not: it has the keys of one. Other programs write YAML, too."""
    try:
        text = read_bytes(path, MOST_BYTES)[:MOST_BYTES].decode(errors="replace")
    except OSError:
        return False
    return bool(MODIFIERS.search(text) or (EXTENDS.search(text) and VERSION.search(text)))


def find(name: str) -> Path:
    """Return the file of the recipe `name` (a name or a path). Raises RecipeError with the nearest."""
    if is_path(name):
        path = Path(name)
        try:
            os.stat(path)
        except FileNotFoundError:
            others = [str(other) for other in contents(path.parent) if other.suffix in SUFFIXES]
            raise RecipeError(f"{name}: no such file{did_you_mean(str(path), others, most=0)}") from None
        except (OSError, ValueError):  # too long, a link to itself, holding a NUL, or in a folder that may not be read
            raise RecipeError(f"{name[:80]!r} is not a path that can be read") from None
        return path
    known = names()
    if name in known:
        return known[name][1]
    looked = ", ".join(label for label, _ in folders())
    raise RecipeError(f"no recipe is called {name!r}{did_you_mean(name, known, most=12)}; looked in: {looked}")
