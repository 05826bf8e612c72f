"""Compile the engine's library beside its sources: `python -m sparsify.engine.build`.

The package's own build does the same where it finds a compiler. Needs GCC 9 or Clang 11, or later, and nothing else.
Imports nothing of the package, so that setup.py can read it before anything is installed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "native"
LIBRARY = "libsparsify_engine.so"
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fPIC", "-fvisibility=hidden", "-pthread", "-shared")
COMPILERS = ("c++", "g++", "clang++")
MARK = "sparsify engine of "
"""Comes before the fingerprint in a library."""

LONGEST = 600
"""Seconds after which a compiler is given up."""


def compiler() -> str | None:
    """Return the C++ compiler: $CXX, else the first that is found."""
    wanted = os.environ.get("CXX")
    found = (shutil.which(name) for name in ((wanted,) if wanted else COMPILERS))
    return next(filter(None, found), None)


def sources(folder: Path = FOLDER) -> list[Path]:
    """Return the files that the library is made of, in a fixed order."""
    return sorted(path for path in folder.iterdir() if path.suffix in (".cpp", ".h", ".inl"))


def fingerprint(folder: Path = FOLDER) -> str:
    """Return a hash of the sources; a library carries that of those it was made of."""
    found = hashlib.sha256()
    for path in sources(folder):
        text = path.read_bytes()
        found.update(f"{path.name} {len(text)}\n".encode() + text)
    return found.hexdigest()[:16]


def is_current(folder: Path = FOLDER) -> bool:
    """Whether the library of a folder was compiled from its sources as they are."""
    library = folder / LIBRARY
    return library.is_file() and f"{MARK}{fingerprint(folder)}".encode() in library.read_bytes()


def compile_library(target: Path | None = None, folder: Path = FOLDER) -> Path:
    """Compile `folder` to `target` (its own folder by default), whole or not at all, and return it.

    Raises RuntimeError with what the compiler said; OSError where the library cannot be written.
    """
    target = target if target is not None else folder / LIBRARY
    found = compiler()
    if platform.system() not in ("Linux", "Darwin"):
        raise RuntimeError(f"the engine is for Linux and macOS, not for {platform.system()}")
    if found is None:
        wanted = os.environ.get("CXX")
        raise RuntimeError(f"there is no {wanted} (CXX)" if wanted else "there is no C++ compiler (g++ or clang++)")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    files = [str(path) for path in sources(folder) if path.suffix == ".cpp"]
    command = [found, *FLAGS, f'-DSPARSIFY_SOURCES="{MARK}{fingerprint(folder)}"', "-o", str(partial), *files]
    command.append("-lc++" if platform.system() == "Darwin" else "-lstdc++")  # CXX may be a C compiler, such as gcc
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST)
        if done.returncode != 0:
            raise RuntimeError(f"{found} failed:\n{(done.stderr or done.stdout).strip()[-2000:]}")
        os.replace(partial, target)  # a process that has the old one open keeps it
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{found} did not end within {LONGEST} seconds") from None
    finally:
        partial.unlink(missing_ok=True)
    return target


def main() -> int:
    """Compile unless it is there; return the exit status. `--optional`: failing is no failure."""
    try:
        if is_current():
            print(f"{FOLDER / LIBRARY} is up to date")
        else:
            print(f"Written to {compile_library()}")
    except (RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 0 if "--optional" in sys.argv[1:] else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
