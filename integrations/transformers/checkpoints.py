"""The Trainer's checkpoint folders: see `common.checkpoints`."""

from sparsify.integrations.common.checkpoints import (
    MARKER,
    NAME,
    Marker,
    check,
    checkpoints,
    is_marked,
    last_whole,
    mark,
    marker,
    new_run,
    refuse_others,
    remove,
    step_of,
)

__all__ = [
    "MARKER",
    "NAME",
    "Marker",
    "check",
    "checkpoints",
    "is_marked",
    "last_whole",
    "mark",
    "marker",
    "new_run",
    "refuse_others",
    "remove",
    "step_of",
]
