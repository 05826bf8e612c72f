"""Run the tests in other versions: `python -m tests.versions [NAME…]`; `--page` writes docs/versions.md from the record."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.versions import build, page, record
from tests.versions.environments import table


def main(words: list[str] | None = None) -> int:
    """Return the exit code: 1 where a test failed, an environment cannot be built, or the page is not fresh."""
    known = table()
    names = [environment.name for environment in known.environments]
    parser = argparse.ArgumentParser(prog="python -m tests.versions", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"environments, by default all: {', '.join(names)}")
    parser.add_argument("--root", type=Path, help="where environments are built (by default a temporary folder)")
    parser.add_argument("--keep", action="store_true", help="keep what was built, with --root")
    parser.add_argument("--all", action="store_true", help="run the whole default suite, not the subset")
    parser.add_argument("--processes", default="logical", help="processes of pytest (by default one a core)")
    parser.add_argument("--no-record", action="store_true", help="write neither record nor page")
    parser.add_argument(
        "--failed",
        action="store_true",
        help="run again the files in which tests failed, in what --keep left under --root",
    )
    parser.add_argument("--page", action="store_true", help="only write docs/versions.md from the record")
    chosen = parser.parse_args(words)
    if unknown := sorted(set(chosen.names) - set(names)):
        parser.error(f"no environment is called {', '.join(unknown)}; there are {', '.join(names)}")
    if (chosen.keep or chosen.failed) and chosen.root is None:
        parser.error("--keep and --failed need --root")
    if chosen.page:
        page.write()
        return 0
    failed = False
    with tempfile.TemporaryDirectory(prefix="versions-") as temporary:
        for environment in known.environments:
            if chosen.names and environment.name not in chosen.names:
                continue
            tests = () if chosen.all else known.subset
            folder = chosen.root or Path(temporary)
            earlier = record.read().get(environment.name)
            try:
                if chosen.failed:
                    entry = build.run_failed(environment, folder, earlier, processes=chosen.processes)
                else:
                    entry = build.run(environment, folder, tests, processes=chosen.processes, keep=chosen.keep)
            except build.BuildError as error:
                print(error, file=sys.stderr)
                failed = True
                continue
            print(f"{entry.name}: {entry.passed} passed, {entry.failed} failed, {entry.skipped} skipped")
            failed |= entry.failed > 0
            if not chosen.no_record:
                record.write(entry)
                page.write()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
