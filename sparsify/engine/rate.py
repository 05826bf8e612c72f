"""How fast this processor multiplies and adds in registers alone: what the speed of products is compared with."""

from __future__ import annotations

from time import perf_counter

import torch

from sparsify.engine.library import checked, library

ROUNDS = 20_000
"""Of one measurement: about a millisecond."""

SECONDS = 0.1


def peak(instructions: int = 0) -> float:
    """Return operations a second in float32 (a multiplication with its addition is two), the most that was seen.

    On `torch.get_num_threads()` threads, with the best instructions that there are, or those of a number of
    `library.INSTRUCTIONS`. Takes a tenth of a second. Raises KernelError where the engine does not work.
    """
    threads, best = torch.get_num_threads(), 0.0
    begin = perf_counter()
    while perf_counter() - begin < SECONDS:
        start = perf_counter()
        operations = checked(library().sparsify_spin(ROUNDS, threads, instructions))
        best = max(best, operations / (perf_counter() - start))
    return best
