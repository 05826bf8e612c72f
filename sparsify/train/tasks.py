"""All tasks, by name."""

from __future__ import annotations

from sparsify.train import answering, image, language, text, tokens
from sparsify.train.task import Task

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        text.CLASSIFICATION, text.REGRESSION, image.TASK, tokens.TASK, answering.TASK, language.CAUSAL, language.MASKED,
    )
}  # fmt: skip
