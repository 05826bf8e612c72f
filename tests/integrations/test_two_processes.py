"""Accelerate and Lightning in two processes with different data: one result everywhere, and the first one writes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "which",
    [pytest.param("accelerate", marks=pytest.mark.slow), "accelerate-after", "lightning"],
)
def test_two_processes_agree_and_resume_to_the_same_bits(tmp_path: Path, which: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "tests.ddp_trainers", which, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )  # fmt: skip
    found = re.findall(r"rank \d of 2: (\w+) resumed (\w+) far ([\d.e+-]+)", done.stdout)
    assert len(found) == 2, done.stderr[-3000:]
    assert found[0][0] == found[1][0], "every process has the same"
    assert [again for _, again, _ in found] == ["True", "True"]
    assert max(float(far) for *_, far in found) < 1e-5, "what one process makes of all the data"
    assert (tmp_path / "report.json").is_file()
