"""docs/versions.md, made of the table of environments and the record of what was run."""

from __future__ import annotations

from tests.versions import record
from tests.versions.environments import ROOT, Table, table
from tests.versions.record import Entry

FILE = ROOT / "docs" / "versions.md"
HEAD = """\
# Versions

What was run, beside the versions that `pyproject.toml` allows. Each environment was built from nothing and deleted afterwards. *oldest*: the lowest version that we allow of
every package that we name (their own requirements are as new as can be); *newest*: the newest of everything. Written by `python -m tests.versions`; do not edit.

"""
PACKAGES = "| package | {} |\n|---|{}\n"
NOTES = """\

`make test-versions` runs all of it again: it needs [uv](https://docs.astral.sh/uv/) (`make setup` installs it), the Pythons, a network, and 15 GB of free disk, for torch
comes with CUDA unless `UV_TORCH_BACKEND=cpu` is set. `python -m tests.versions oldest --root /big/disk --keep` runs one and keeps it; `--all` runs the whole default suite in place of the subset.
The subset is the list in `tests/versions/environments.yaml`. The whole default suite is run on Python 3.11 with the torch of `constraints.txt` before anything lands, with every warning an error.
"""


def write() -> None:
    """Write the page."""
    FILE.write_text(text(table(), record.read()), encoding="utf-8")


def text(known: Table, entries: dict[str, Entry]) -> str:
    """Return the page: what was run, with which versions, and what is expected to work and was not run."""
    run = [entries[each.name] for each in known.environments if each.name in entries]
    missing = [each.name for each in known.environments if each.name not in entries]
    return HEAD + _runs(run) + _packages(run) + _expected(known, missing) + NOTES


def _runs(run: list[Entry]) -> str:
    lines = [
        "| environment | Python | torch | transformers | tests | passed | failed | skipped | warnings | tests took | building took | disk | when, commit |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in run:
        cells = (
            entry.name,
            entry.python,
            entry.packages["torch"],
            entry.packages["transformers"],
            entry.tests,
            f"{entry.passed:,}",
            entry.failed,
            entry.skipped,
            "are errors" if entry.warnings == "error" else "are shown",
            f"{entry.test_seconds:,.0f} s",
            f"{entry.build_seconds:,.0f} s",
            f"{entry.disk_gigabytes} GB",
            f"{entry.date}, {entry.commit}",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    again = [
        f"In *{entry.name}*, files in which something failed were run again alone after a mend (`--failed`), and are counted "
        f"as they were then: {', '.join(f'`{file}`' for file in entry.again)}.\n"
        for entry in run
        if entry.again
    ]
    notes = [f"*{entry.name}*: {entry.note}\n" for entry in run if entry.note]
    return "\n".join([*lines, "", *again, *notes]) + "\n"


def _packages(run: list[Entry]) -> str:
    names = [name for name in record.SHOWN if any(name in entry.packages for entry in run)]
    head = PACKAGES.format(" | ".join(entry.name for entry in run), "---|" * len(run))
    rows = (f"| {name} | {' | '.join(entry.packages.get(name, '–') for entry in run)} |\n" for name in names)
    return head + "".join(rows)


def _expected(known: Table, missing: list[str]) -> str:
    lines = [f"- Python {each.python}. {each.reason}" for each in known.expected]
    lines += [f"- The environment *{name}*." for name in missing]
    lines += ["- macOS and Windows: all that was run was run on Linux x86_64."]
    return "\n## Expected to work, not run\n\n" + "\n".join(lines) + "\n"
