"""A short run of every kind of the fuzzer; the long one is `python -m tests.fuzz`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz import LIMIT, kinds, odd_folder

COUNTS = {"commands": 10, "text": 60, "weights": 60}
KINDS = kinds()


@pytest.mark.parametrize("name", KINDS)
def test_nothing_raw_comes_out(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    odd_folder(tmp_path)
    chance, kind = random.Random(name), KINDS[name]
    for _ in range(COUNTS.get(name, 120)):
        kind.once(chance)
    assert kind.slowest < LIMIT
