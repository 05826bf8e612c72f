"""The stock Trainer under a recipe: one more callback, nothing else.

Run it as it is, `python -m sparsify.integrations.transformers.example`, or take the line marked with ← into your own
script. A small BERT learns to tell which of two words a sentence has more often; stop it and start it again: it goes
on from the last whole checkpoint.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from sparsify import Recipe
from sparsify.integrations.transformers import SparsifyCallback, last_whole

RECIPE = """
version: 1
name: trainer-example
modifiers:
  - type: prune                        # without targets: all linear layers, but embeddings and classifier
    sparsity: {from: 0, to: 0.8, curve: cubic}
    window: {begin: 10%, end: 70%, every: 5 steps}
"""
WORDS, LENGTH = 20, 12


class Sentences(torch.utils.data.Dataset[dict[str, Any]]):
    """Sentences of the words 2, …, 19; the label is whether 2 is more frequent than 3."""

    def __init__(self, rows: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        words = torch.randint(2, WORDS, (rows * 4, LENGTH), generator=generator)
        words = torch.where(torch.rand(words.shape, generator=generator) < 0.5, words % 2 + 2, words)
        counts = (words == 2).sum(1) - (words == 3).sum(1)
        self.words, self.labels = words[counts != 0][:rows], (counts[counts != 0][:rows] > 0).long()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"input_ids": self.words[row], "labels": self.labels[row]}


def accuracy(prediction: Any) -> dict[str, float]:
    """Return the fraction classified rightly."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def main(directory: Path) -> None:
    """Train in `directory`, or go on there."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    model = BertForSequenceClassification(BertConfig(vocab_size=WORDS, num_labels=2, **sizes))
    sparsify = SparsifyCallback(Recipe.parse(RECIPE))
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(directory),
            num_train_epochs=6,
            per_device_train_batch_size=32,
            learning_rate=2e-3,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=2,  # not 1: the Trainer deletes the old checkpoint before the new one is whole
            load_best_model_at_end=True,
            metric_for_best_model="accuracy",
            logging_steps=16,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            report_to="none",
        ),
        train_dataset=Sentences(512, seed=0),
        eval_dataset=Sentences(128, seed=1),
        compute_metrics=accuracy,
        callbacks=[sparsify],  # ←
    )
    trainer.train(resume_from_checkpoint=last_whole(directory))
    trainer.save_model(str(directory / "final"))
    assert sparsify.density is not None
    right = trainer.evaluate()["eval_accuracy"]
    print(f"accuracy {right:.1%} with {sparsify.density.targeted.sparsity:.1%} of the targeted weights zero")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
