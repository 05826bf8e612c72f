"""Why a measured speed-up is not the one that operations promise: one plain sentence, with what would give one."""

from __future__ import annotations

from sparsify.benchmarking.engines import Engine
from sparsify.benchmarking.flops import Flops
from sparsify.benchmarking.medians import Ratio

NEAR = 0.05
"""How far two speed-ups may lie apart and still be called the same."""

REST = "small matrices use less of the machine's speed, and all that is not a matrix product (norms, softmax) stays"
CUT = (
    "cutting whole heads, neurons or channels out of the model would help, or, for zeros at single places, an engine "
    "that skips them: measure it with `--engine sparse`"
)


def theoretical(flops: Flops, reference: Flops) -> float | None:
    """Return how many times fewer operations are left than the reference does; None where nothing is counted."""
    return reference.dense / flops.effective if flops.effective else None


def why(engine: Engine, flops: Flops, reference: Flops | None, measured: Ratio | None) -> str:
    """Return the sentence for a model; `reference` and `measured` are of the model that it is compared with.

    Of a model by itself it says what its zeros could give.
    """
    promised = theoretical(flops, reference or flops)
    if promised is None:
        return "No operations were counted, so nothing can be said about what could be gained."
    zeros = flops.dense > (1 + NEAR) * flops.effective
    if measured is None or reference is None:
        if not zeros:
            return "Almost none of the weights that it multiplies are zero: there is nothing to skip."
        return f"Its zeros could give {promised:.2f}×, {_cost(engine)}."
    if abs(promised - 1) <= NEAR:
        if measured.open or abs(measured.median - 1) <= NEAR:
            return "It has as many operations left as the other model: no speed-up is to be expected."
        return "It has as many operations left as the other model: the difference is due to memory or small operations."
    if measured.low <= promised <= measured.high or abs(measured.median / promised - 1) <= NEAR:
        return "The measured speed-up is what its operations promise."
    if measured.median > promised:
        return "It is faster than its operations alone explain: it moves less memory, or fits a cache better."
    smaller = reference.dense / flops.dense if flops.dense else 1.0
    if zeros and smaller <= 1 + NEAR:
        return f"Its zeros promise {promised:.2f}×, {_cost(engine)}."
    if zeros:
        return f"The smaller shapes promise {smaller:.2f}×, the zeros the rest, {_cost(engine)}; {REST}."
    return f"The smaller shapes promise {promised:.2f}×, but {REST}."


def _cost(engine: Engine) -> str:
    if engine.skips_zeros:
        return f"but {engine.about}: finding what is not zero, attention and memory take time too"
    return f"but {engine.about}, where a zero costs as much as any other number; {CUT}"
