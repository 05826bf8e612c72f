"""What several processes agree on. With one process, or without torch.distributed, nothing happens."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

TOLD = "told_by_the_first_process"


def count() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def number() -> int:
    """Return which of them this one is, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def launched_as() -> int:
    """Return the number that a launcher has given to this process, whether or not it has joined the others."""
    text = os.environ.get("RANK", "")
    return int(text) if text.isdigit() else 0


def is_first() -> bool:
    """Whether this process is the first of those that train together, or the only one."""
    return number() == 0


def mean_(tensor: Tensor) -> Tensor:
    """Replace a tensor by its mean over all processes, in place; return it."""
    if (processes := count()) > 1:
        dist.all_reduce(tensor)
        tensor.div_(processes)
    return tensor


def of_all(value: T) -> list[T]:
    """Return the values of all processes, in their order; picklable, alike in every process."""
    found: list[Any] = [value] * count()
    if count() > 1:
        dist.all_gather_object(found, value)
    return found


def copy_first_(tensor: Tensor) -> Tensor:
    """Replace a tensor by that of the first process, in place; return it."""
    if count() > 1:
        dist.broadcast(tensor, src=0)
    return tensor


def any_of(value: bool) -> bool:
    """Whether it is so in any process."""
    return any(of_all(value))


def wait() -> None:
    """Wait until every process has come here."""
    if count() > 1:
        dist.barrier()


def from_first(make: Callable[[], T]) -> T:
    """Return what `make` gives in the first process, in all of them; it is not called in the others.

    What it raises there is raised everywhere, and `is_told` in the others.
    """
    if count() == 1:
        return make()
    found: list[Any] = [None, None]
    if is_first():
        try:
            found[0] = make()
        except Exception as error:
            found[1] = error
    dist.broadcast_object_list(found, src=0)
    if found[1] is not None:
        if not is_first():
            found[1].__dict__[TOLD] = True
        raise found[1]
    return found[0]  # type: ignore[no-any-return]


def first_then_others(make: Callable[[], T]) -> T:
    """Return what `make` gives in each process; the first is done before the others begin, and fails for all."""
    made = [make()] if count() == 1 else []

    def here() -> None:
        made.append(make())

    if not made:
        from_first(here)
    return made[0] if made else make()


def is_told(error: BaseException) -> bool:
    """Whether the first process has raised this error, so that the others need not say it again."""
    return TOLD in error.__dict__
