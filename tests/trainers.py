"""The stock Trainer, a small BERT and random rows: what the tests of the callback share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from sparsify import Recipe
from sparsify.integrations.transformers import SparsifyCallback
from tests.majors import IN_ORDER, in_order
from tests.models import build

ROWS, BATCH, STEPS = 48, 4, 12
RECIPE = """
version: 1
modifiers:
  - {type: prune, sparsity: 0.75, window: {begin: 1, end: 8, every: 2}}
"""

CRITERIA = {
    "magnitude": RECIPE,
    "latent": RECIPE.replace("type: prune,", "type: prune, masking: latent,"),
    "movement": RECIPE.replace("type: prune,", "type: prune, criterion: movement,"),
    "gates": RECIPE.replace("type: prune,", "type: prune, criterion: {type: hard-concrete, learning_rate: 1.0},"),
}
"""The recipe by the way in which its masks are made."""


class Rows(torch.utils.data.Dataset):
    """Random tokens and labels."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(2, 40, (ROWS, 6), generator=generator)
        self.labels = self.tokens[:, 0] % 2

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"input_ids": self.tokens[row], "labels": self.labels[row]}


def bert(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    model = build("bert")
    torch.manual_seed(1)
    from transformers import BertForSequenceClassification

    config = model.config
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
    return BertForSequenceClassification(config)


def trainer(model: nn.Module, folder: Path, *callbacks: TrainerCallback, metrics: Any = None, **more: Any) -> Trainer:
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": STEPS * BATCH / ROWS,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 1e-2,
        "max_grad_norm": 0.05,
        **IN_ORDER,
        "save_strategy": "no",
        "logging_steps": 2,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "report_to": "none",
    }
    made = in_order(Trainer)(
        model=model,
        args=TrainingArguments(**{**options, **more}),
        train_dataset=Rows(),
        eval_dataset=Rows(),
        compute_metrics=metrics,
        callbacks=list(callbacks),
    )
    made.remove_callback(PrinterCallback)
    return made


def recipe() -> Recipe:
    return Recipe.parse(RECIPE)


def same(first: nn.Module, second: nn.Module) -> None:
    for (name, one), (_, other) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert torch.equal(one, other), name


class Stop(TrainerCallback):
    """Stops at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        control.should_training_stop = control.should_training_stop or state.global_step >= self.step
        return control


class Breaks(TrainerCallback):
    """Fails at a step, as a crash would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def cut(folder: Path) -> Path:
    """Return a checkpoint of step 6."""
    with pytest.raises(KeyboardInterrupt):
        trainer(bert(), folder, SparsifyCallback(recipe()), Breaks(7), save_strategy="steps", save_steps=3).train()
    return folder / "checkpoint-6"


def resume(folder: Path, source: Path, text: str = RECIPE, **options: Any) -> SparsifyCallback:
    callback = SparsifyCallback(Recipe.parse(text), **options)
    trainer(bert(), folder, callback, save_strategy="steps", save_steps=3).train(resume_from_checkpoint=str(source))
    return callback
