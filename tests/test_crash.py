"""`kill -9`, `--resume`, and the weights are those of the run that was never killed, bit by bit."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sparsify import lock
from sparsify.train.run import run
from tests.crash import asked
from tests.train.test_train import settings

ROOT = Path(__file__).parents[1]
KINDS = ("small", "compound")


@pytest.fixture(scope="module", autouse=True)
def _whole(place: Path) -> None:
    """Write a teacher, and the folders of runs that nobody disturbed."""
    run(settings(place), None, place / "teacher")
    for kind in KINDS:
        run(*asked(place, kind), place / f"whole-{kind}")


def start(place: Path, out: Path, moment: str, count: float, kind: str) -> int:
    """Run in a process of its own until it is killed, or done; return the exit code."""
    command = [sys.executable, "-m", "tests.crash", moment, str(count), str(place), str(out), kind]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, -9), done.stderr[-2000:]
    return done.returncode


def resume(place: Path, out: Path, kind: str) -> None:
    """Go on, in this process; nothing but a finished run lies there afterwards."""
    run(*asked(place, kind), out, resume=True)
    whole = place / f"whole-{kind}"
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in whole.iterdir())


def same(place: Path, out: Path, kind: str) -> None:
    one, other = (load_file(folder / "model.safetensors") for folder in (place / f"whole-{kind}", out))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("moment", "count", "kind"),
    [("step", 14, "small"), ("evaluation", 4, "small"), ("checkpoint", 9, "small"), ("step", 17, "compound")],
)
def test_a_killed_run_goes_on_to_the_same_bits(place: Path, tmp_path: Path, moment: str, count: int, kind: str) -> None:
    out = tmp_path / "out"
    assert start(place, out, moment, count, kind) == -9
    assert not (out / "report.json").exists()
    assert (out / lock.FILE).exists()
    resume(place, out, kind)
    same(place, out, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_dozen_kills_at_random_moments(place: Path, tmp_path: Path, kind: str) -> None:
    """Runs that are killed again and again, until they come through."""
    chance = random.Random(0)
    kills: list[str] = []
    for trial in range(100):
        out = tmp_path / str(trial)
        for _ in range(4):  # then it may come through
            moment = chance.choice(["step", "evaluation", "checkpoint", "time"])
            most = {"step": 12, "evaluation": 8, "checkpoint": 12, "time": 3}[moment]
            count = chance.uniform(0.05, most) if moment == "time" else chance.randint(1, most)
            if start(place, out, moment, count, kind) == 0:
                break
            kills.append(f"{moment} {count:.3g}")
            if (out / "report.json").exists():  # killed after the last word
                break
        if not (out / "report.json").exists():
            resume(place, out, kind)
        same(place, out, kind)
        if len(kills) >= 24:
            break
    print(f"{len(kills)} kills in {trial + 1} runs: {', '.join(kills)}")
    assert len(kills) >= 24
