"""The API reference: every public name is there, and the examples in its docstrings are run."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

import sparsify
from sparsify.layers import registry

ROOT = Path(__file__).parents[2]
API = sorted((ROOT / "docs" / "api").glob("*.md"))
DIRECTIVE = re.compile(r"^::: (\S+)(?:\n    options: \{heading: ([\w.]+))?", re.MULTILINE)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def documented() -> dict[str, Any]:
    """Return the objects of the reference by the names that it shows."""
    shown = (heading or name for page in API for name, heading in DIRECTIVE.findall(page.read_text(encoding="utf-8")))
    return {name: resolve(name) for name in shown}


def resolve(name: str) -> Any:
    """Return what a dotted name stands for."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


OBJECTS = documented()


def taught() -> set[str]:
    """Return every name that the code on a page imports from sparsify."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    blocks = [block for page in pages for block in PYTHON.findall(page.read_text(encoding="utf-8"))]
    return {
        f"{node.module}.{alias.name}"
        for block in blocks
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "sparsify"
        for alias in node.names
    }


@pytest.mark.parametrize("name", sorted(set(sparsify.__all__) - {"__version__"}))
def test_every_public_name_is_in_the_reference(name: str) -> None:
    assert OBJECTS[f"sparsify.{name}"] is getattr(sparsify, name)


@pytest.mark.parametrize("name", sorted(taught()))
def test_what_pages_import_is_in_the_reference(name: str) -> None:
    taught_object = resolve(name)
    if inspect.ismodule(taught_object):
        assert any(shown.startswith(f"{name}.") for shown in OBJECTS)
    else:
        assert any(each is taught_object for each in OBJECTS.values())


@pytest.mark.parametrize("name", sorted(OBJECTS))
def test_what_is_in_the_reference_is_described(name: str) -> None:
    documented = OBJECTS[name]
    if inspect.isclass(documented) or inspect.isfunction(documented):
        assert documented.__doc__


@pytest.mark.parametrize("name", sorted(name for name, each in OBJECTS.items() if each.__doc__ and callable(each)))
def test_the_examples_of_a_docstring(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_known", dict(registry._known))  # what an example registers is gone after it
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    documented = OBJECTS[name]
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    wrong: list[str] = []
    module = inspect.getmodule(documented)
    for test in doctest.DocTestFinder(recurse=True).find(documented, name, module=module):
        runner.run(test, out=wrong.append)
    assert not wrong, "".join(wrong)


def test_public_functions_have_examples() -> None:
    finder = doctest.DocTestFinder(recurse=False)
    functions = [name for name in sparsify.__all__ if inspect.isfunction(getattr(sparsify, name))]
    assert functions
    for name in functions:
        function = getattr(sparsify, name)
        assert any(test.examples for test in finder.find(function, name, module=inspect.getmodule(function))), name
