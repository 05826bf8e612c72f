"""Accelerate and Lightning in two processes with different data: one result everywhere, and the first one writes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.processes import in_two


@pytest.mark.parametrize(
    "which",
    [pytest.param("accelerate", marks=pytest.mark.slow), "accelerate-after", "lightning"],
)
def test_two_processes_agree_and_resume_to_the_same_bits(tmp_path: Path, which: str) -> None:
    done = in_two("ddp_trainers", which, str(tmp_path), imports=[f"sparsify.integrations.{which.partition('-')[0]}"])
    found = re.findall(r"rank \d of 2: (\w+) resumed (\w+) far ([\d.e+-]+)", done.stdout)
    assert len(found) == 2, done.stderr[-3000:]
    assert found[0][0] == found[1][0], "every process has the same"
    assert [again for _, again, _ in found] == ["True", "True"]
    assert max(float(far) for *_, far in found) < 1e-5, "what one process makes of all the data"
    assert (tmp_path / "report.json").is_file()
    first, second = (json.loads(names) for _, names in sorted(re.findall(r"rank (\d) wrote (.*)", done.stdout)))
    assert any("report.json" in name for name in first)
    assert len(first) > 4, "weights, optimizers, states"
    own = [] if which == "lightning" else ["state/random_states_1.pkl"]  # Accelerate has every process save its own
    assert second == own
