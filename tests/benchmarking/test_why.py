"""The sentence about a speed-up that did not come."""

from __future__ import annotations

from typing import ClassVar

import pytest

from sparsify.benchmarking.engines import ENGINES
from sparsify.benchmarking.engines.eager import Eager
from sparsify.benchmarking.flops import Flops
from sparsify.benchmarking.medians import Ratio
from sparsify.benchmarking.why import theoretical, why

DENSE = Flops(dense=1000, effective=1000, weights=900)
SPARSE = Flops(dense=1000, effective=200, weights=900)
SMALL = Flops(dense=250, effective=250, weights=200)
BOTH = Flops(dense=500, effective=100, weights=450)
NOTHING = Flops(dense=0, effective=0, weights=0)


class Skipping(Eager):
    """An engine that computes with what is not zero."""

    about: ClassVar[str] = "it skips zeros"
    skips_zeros: ClassVar[bool] = True


def ratio(value: float) -> Ratio:
    """Return a ratio that is known to a hundredth."""
    return Ratio(median=value, low=value - 0.01, high=value + 0.01)


def test_the_theory_is_dense_by_what_is_left() -> None:
    assert theoretical(SPARSE, DENSE) == 5.0
    assert theoretical(BOTH, DENSE) == 10.0
    assert theoretical(NOTHING, DENSE) is None


@pytest.mark.parametrize(("flops", "measured", "wanted"), [
    (SPARSE, 1.0, "zeros promise 5.00×, but PyTorch's kernels multiply dense matrices, where a zero costs as much"),
    (SPARSE, 1.0, "for zeros at single places, an engine that skips them: measure it with `--engine sparse`"),
    (SPARSE, 5.0, "The measured speed-up is what its operations promise"),
    (SPARSE, 6.0, "It is faster than its operations alone explain"),
    (SMALL, 2.0, "The smaller shapes promise 4.00×, but small matrices use less"),
    (BOTH, 1.8, "The smaller shapes promise 2.00×, the zeros the rest"),
    (DENSE, 1.0, "no speed-up is to be expected"),
    (DENSE, 1.4, "the difference is due to memory or small operations"),
    (NOTHING, 1.0, "No operations were counted"),
])  # fmt: skip
def test_sentences(flops: Flops, measured: float, wanted: str) -> None:
    assert wanted in why(ENGINES["torch"], flops, DENSE, ratio(measured))


def test_an_engine_that_skips_zeros_is_not_blamed_for_them() -> None:
    said = why(Skipping(), SPARSE, DENSE, ratio(3.0))
    assert "it skips zeros: finding what is not zero" in said
    assert "costs as much" not in said


def test_a_model_by_itself() -> None:
    assert "could give 5.00×" in why(ENGINES["torch"], SPARSE, None, None)
    assert "nothing to skip" in why(ENGINES["torch"], DENSE, None, None)
