"""The build: pure Python, and the sparse engine's library where there is a C++ compiler (see pyproject.toml)."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ENGINE = Path("sparsify", "engine")
WITHOUT = "SPARSIFY_WITHOUT_ENGINE"
"""Set to 1: no library is compiled, and the wheel is for every platform."""


def engine() -> Any:
    """Return the module that compiles; importing the package would need torch."""
    spec = importlib.util.spec_from_file_location("engine_build", Path(__file__).parent / ENGINE / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wanted() -> bool:
    """Whether there is a compiler, and nobody has said that it is not to be used."""
    return os.environ.get(WITHOUT, "0") in ("", "0") and engine().compiler() is not None


class BuildPy(build_py):
    """Copies the package, then compiles beside the copied sources; in place for an editable install."""

    def run(self) -> None:
        """Compile; where that fails the package is built without the library, and says so."""
        super().run()
        if not wanted():
            self.announce("sparse engine: not compiled (no C++ compiler, or it is not wanted)", 3)
            return
        build = engine()
        folder = build.FOLDER
        if self.editable_mode and build.is_current(folder):
            return
        root = Path() if self.editable_mode else Path(self.build_lib)
        try:
            build.compile_library(root / ENGINE / "native" / build.LIBRARY, folder)
        except (RuntimeError, OSError) as error:
            self.announce(f"sparse engine: not compiled: {error}", 3)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Name the library, too."""
        library = Path(self.build_lib) / ENGINE / "native" / engine().LIBRARY
        return [*super().get_outputs(include_bytecode), *([str(library)] if library.exists() else [])]


class BdistWheel(bdist_wheel):
    """One wheel for a platform, for every Python: the library knows neither Python's ABI nor torch's."""

    def finalize_options(self) -> None:
        """Mark wheels with a library as made for this platform."""
        super().finalize_options()
        self.root_is_pure = not wanted()

    def get_tag(self) -> tuple[str, str, str]:
        """Return py3-none-<platform>."""
        python, abi, plat = super().get_tag()
        return (python, abi, plat) if self.root_is_pure else ("py3", "none", plat)


class Whole(Distribution):
    """Puts everything where compiled packages go."""

    def has_ext_modules(self) -> bool:
        """Whether a library is compiled."""
        return wanted()


setup(cmdclass={"build_py": BuildPy, "bdist_wheel": BdistWheel}, distclass=Whole)
