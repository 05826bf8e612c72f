"""The processes that a launcher has started: joined into one training, or refused where they cannot be."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from sparsify import ranks
from sparsify.errors import TrainingError, first_line

SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
RANKS = ("RANK", "LOCAL_RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
"""What torchrun, Accelerate and MPI tell their processes, and what the Trainer would join them by."""
NEEDED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun and `accelerate launch` tell all of theirs."""
LOST = "the connection to the other processes is lost; one of them has probably ended with an error"
PATIENCE = timedelta(hours=2)
"""How long the others wait while the first process reads data or writes the model."""

_gloo: list[int] = []
"""How many processes each group had that this one was in."""


@contextmanager
def joined(environment: Mapping[str, str] = os.environ) -> Iterator[int]:
    """Join the processes that this one was started with; yield how many there are, 1 where it is alone.

    Raises TrainingError where a launcher has started several, but has not told them how to find each other.
    """
    if dist.is_available() and dist.is_initialized():  # by a script that calls us
        yield dist.get_world_size()
        return
    if not _several(environment):
        yield 1
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(environment["LOCAL_RANK"]))
    try:
        dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(f"the processes cannot join: {first_line(error)}") from None
    if not cuda:
        _gloo.append(dist.get_world_size())
    try:
        yield dist.get_world_size()
    finally:
        dist.destroy_process_group()


def leave(code: int) -> None:
    """End this process with an exit code, without the interpreter's teardown; return where it was in no gloo group.

    DDP keeps gloo's threads alive beyond `destroy_process_group`. One that wants the GIL while the interpreter is
    ending aborts the process, and the launcher calls a good run failed. What is registered for the end (loggers,
    temporary folders) is done before.
    """
    if not _gloo:
        return
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def is_lost(error: BaseException) -> bool:
    """Whether torch says with this error that another process is gone, and its place in the group with it."""
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo", "NCCL")
    return ranks.count() > 1 and isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def _several(environment: Mapping[str, str]) -> bool:
    """Whether this is a process of a group that can be joined. Raises TrainingError where it is of another."""
    sizes = {name: _number(environment, name, 1) for name in SIZES}
    numbers = {name: _number(environment, name, 0) for name in RANKS}
    if all(environment.get(name) for name in NEEDED) and not _beyond(sizes, numbers):
        return True
    for name, size in sizes.items():
        if size > 1:
            raise TrainingError(_REASON.format(f"several were started ({name}={environment[name]})"))
    for name, rank in numbers.items():
        if rank > 0:
            raise TrainingError(_REASON.format(f"this is one of several ({name}={environment[name]})"))
    if _number(environment, "LOCAL_RANK", -1) >= 0:  # the Trainer joins a group then, be it of one
        raise TrainingError(_REASON.format("a launcher of several has started it (LOCAL_RANK is set)"))
    return False


def _beyond(sizes: Mapping[str, int], numbers: Mapping[str, int]) -> bool:
    """Whether a process has another number than its launcher can have given."""
    return not 0 <= numbers["RANK"] < sizes["WORLD_SIZE"] or numbers["LOCAL_RANK"] < 0


def _number(environment: Mapping[str, str], name: str, without: int) -> int:
    try:
        return int(environment.get(name) or without)
    except ValueError:
        raise TrainingError(f"{name}={environment[name]!r} in the environment is no number of processes") from None


_REASON = (
    "sparsify train runs in several processes under torchrun or accelerate launch, but {}, and nothing says how they "
    f"find each other ({', '.join(NEEDED)}): start it with `torchrun --nproc_per_node N -m sparsify train …`"
)
