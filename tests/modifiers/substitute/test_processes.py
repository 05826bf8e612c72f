"""Norms in two processes: what is measured is measured on the data of both, micro-batch by micro-batch."""

from __future__ import annotations

import re

from tests.processes import in_two


def test_two_processes_fold_what_one_does() -> None:
    done = in_two("ddp_masks", "substitute")
    found = re.findall(r"rank \d (\w+): weights (\S+), mask bits (\d+)", done.stdout)
    assert [name for name, _, _ in found] == ["nonorm", "nonorm"], done.stderr
    assert all(float(worst) < 1e-6 for _, worst, _ in found)
