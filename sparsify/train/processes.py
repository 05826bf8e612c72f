"""How many processes a launcher has started; `sparsify train` runs in one."""

from __future__ import annotations

from collections.abc import Mapping

from sparsify.errors import TrainingError

SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
RANKS = ("RANK", "LOCAL_RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
"""What torchrun, Accelerate and MPI tell their processes, and what the Trainer would join them by."""


def refuse_several(environment: Mapping[str, str]) -> None:
    """Raise TrainingError where this is one of several processes: each would write the model into the same folder."""
    for name in SIZES:
        if _number(environment, name, 1) > 1:
            raise TrainingError(_REASON.format(f"several were started ({name}={environment[name]})"))
    for name in RANKS:
        if _number(environment, name, 0) > 0:
            raise TrainingError(_REASON.format(f"this is one of several ({name}={environment[name]})"))
    if _number(environment, "LOCAL_RANK", -1) >= 0:  # the Trainer joins a group then, be it of one
        raise TrainingError(_REASON.format("a launcher of several has started it (LOCAL_RANK is set)"))


def _number(environment: Mapping[str, str], name: str, without: int) -> int:
    try:
        return int(environment.get(name) or without)
    except ValueError:
        raise TrainingError(f"{name}={environment[name]!r} in the environment is no number of processes") from None


_REASON = (
    "sparsify train runs in one process, but {}: start it without torchrun, accelerate launch, mpirun or srun; "
    "a script with the Trainer and SparsifyCallback runs in several"
)
