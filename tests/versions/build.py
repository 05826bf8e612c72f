"""Build an environment, run tests in it, and say what happened. uv does the work: it knows `lowest-direct`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path

from tests.versions.environments import ROOT, Environment
from tests.versions.record import SHOWN, Entry

NEEDED = 15e9
"""Bytes that must be free before an environment is built: torch with CUDA takes 6·10⁹, and as much in the cache."""
TOOK = "seconds.txt"
"""In an environment: how long it took to make it, for those that are kept and used again."""
RESOLUTION = {"oldest": "lowest-direct", "newest": "highest"}


class BuildError(Exception):
    """An environment cannot be built, or tests cannot be run in it."""


RESULTS = "results.xml"


def run(environment: Environment, folder: Path, tests: Sequence[str], *, processes: str, keep: bool) -> Entry:
    """Build `environment` in a folder, run `tests` in it, and delete it unless `keep`.

    Raises `BuildError` where there is too little room, no such Python, or a package that cannot be installed.
    """
    place = folder / environment.name
    folder.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(folder).free) < NEEDED:
        raise BuildError(
            f"{folder} has {free / 1e9:.1f} GB left, and {NEEDED / 1e9:.0f} are needed; choose another --root"
        )
    tested = commit()
    try:
        build(environment, place)
        seconds, counts = run_tests(environment, place, tests, processes)
        return Entry(
            name=environment.name,
            **versions(place),  # type: ignore[arg-type]
            passed=counts["passed"],
            failed=counts["failed"],
            skipped=counts["skipped"],
            tests="subset" if tests else "all",
            warnings=environment.warnings,
            test_seconds=round(seconds),
            build_seconds=round(float((place / TOOK).read_text())),
            disk_gigabytes=round(size(place) / 1e9, 1),
            date=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            commit=tested,
        )
    finally:
        if not keep:
            shutil.rmtree(place, ignore_errors=True)


def run_failed(environment: Environment, folder: Path, entry: Entry | None, *, processes: str) -> Entry:
    """Run again, in an environment that was kept, the files in which tests failed; return the entry with what they gave.

    For mends, of tests or of a lower bound, that the other files cannot feel: the environment is brought up to date
    first. Raises `BuildError` where the environment or its results are not there.
    """
    place = folder / environment.name
    if entry is None or not (place / RESULTS).exists():
        raise BuildError(f"{place} was not kept: run {environment.name} with --root and --keep first")
    earlier = outcomes(place / RESULTS)
    files = sorted(file for file, counts in earlier.items() if counts["failed"])
    if not files:
        raise BuildError(f"{environment.name}: nothing failed")
    tested = commit()
    build(environment, place)
    seconds, counts = run_tests(environment, place, files, processes, RESULTS.replace(".", "-again."))
    for file in files:
        counts.subtract(earlier[file])
    sums = {key: getattr(entry, key) + counts[key] for key in ("passed", "failed", "skipped")}
    spent = entry.test_seconds + round(seconds)
    update = {**sums, **versions(place), "again": tuple(files), "test_seconds": spent, "commit": tested}
    return entry.model_copy(update=update)


def build(environment: Environment, place: Path) -> None:
    """Make the virtual environment, or bring one that was kept up to date."""
    extras = [word for extra in environment.extras for word in ("--extra", extra)]
    project = str(ROOT / "pyproject.toml")
    began = time.monotonic()
    if not python(place).exists():
        uv("venv", "--python", environment.python, str(place))
    install = ("pip", "install", "--python", str(python(place)))
    uv(*install, "--upgrade", "--resolution", RESOLUTION[environment.packages], "-r", project, *extras)
    uv(*install, "-r", project, "--extra", "test")  # what runs the tests; what is there stays
    uv(*install, "--no-deps", "--editable", str(ROOT))
    if not (place / TOOK).exists():
        (place / TOOK).write_text(str(time.monotonic() - began))


def run_tests(
    environment: Environment, place: Path, tests: Sequence[str], processes: str, name: str = RESULTS
) -> tuple[float, Counter[str]]:
    """Run pytest; return its seconds, and how many tests passed, failed and were skipped."""
    results = place / name
    command = [python(place), "-m", "pytest", "-n", processes, "--dist", "loadfile", "--tb=short"]
    command += ["-p", "no:cacheprovider", f"--junitxml={results}", *tests]
    if environment.warnings == "default":
        command += ["-W", "default"]
    began = time.monotonic()
    subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}, check=False)
    if not results.exists():
        raise BuildError(f"{environment.name}: pytest ended without results")
    return time.monotonic() - began, sum(outcomes(results).values(), Counter())


def outcomes(results: Path) -> dict[str, Counter[str]]:
    """Return how many tests passed, failed and were skipped by file, as pytest wrote it with `--junitxml`."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for case in ElementTree.parse(results).getroot().iter("testcase"):
        file = case.get("classname", "").replace(".", "/") + ".py"
        kinds = {child.tag for child in case}
        found[file]["failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"] += 1
    return dict(found)


def versions(place: Path) -> dict[str, object]:
    """Return the versions of Python and of the packages that are recorded."""
    code = "import json, sys, importlib.metadata as m; names = json.loads(sys.argv[1])\n"
    code += "here = {d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}\n"
    code += "print(json.dumps({'python': '.'.join(map(str, sys.version_info[:3])),"
    code += " 'packages': {n: here[n.lower()] for n in names if n.lower() in here}}))"
    done = subprocess.run([python(place), "-c", code, json.dumps(SHOWN)], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def size(place: Path) -> int:
    """Return the bytes of a folder; a file with several names counts once."""
    files = {(stat.st_dev, stat.st_ino): stat.st_size for path in place.rglob("*") if (stat := path.lstat())}
    return sum(files.values())


def commit() -> str:
    """Return the commit that is checked out, with `+` where tracked files differ from it."""
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    changed = subprocess.run(
        ["git", "diff", "--quiet", "HEAD", "--", ":!tests/versions", ":!docs"], cwd=ROOT, check=False
    )
    return head.stdout.strip() + ("+" if changed.returncode else "")


def python(place: Path) -> Path:
    """Return the interpreter of an environment."""
    return place / "bin" / "python"


def uv(*words: str) -> None:
    """Call uv, as it is installed beside the running Python; raises `BuildError` where it fails or is not there."""
    if find_spec("uv") is None:
        raise BuildError("uv is not installed: pip install uv (`make setup` does)")
    if subprocess.run([sys.executable, "-m", "uv", *words], check=False).returncode:
        raise BuildError(f"uv {' '.join(words)} failed; the reason stands above")
