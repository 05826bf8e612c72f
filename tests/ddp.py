"""The Trainer in two processes: `torchrun --nproc_per_node 2 tests/ddp.py DIR [stop]`; prints a hash of the weights."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from sparsify import Recipe
from sparsify.integrations.transformers import SparsifyCallback, last_whole
from sparsify.integrations.transformers.example import RECIPE, WORDS, Sentences, accuracy


class Stop(TrainerCallback):
    """Ends the process in the middle."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 33:
            raise SystemExit(3)


def main(directory: Path, stop: bool) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    model = BertForSequenceClassification(BertConfig(vocab_size=WORDS, num_labels=2, **sizes))
    callback = SparsifyCallback(Recipe.parse(RECIPE))
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(directory), num_train_epochs=6, per_device_train_batch_size=16, learning_rate=2e-3,
            eval_strategy="steps", eval_steps=16, save_strategy="steps", save_steps=16, save_total_limit=2,
            load_best_model_at_end=True, metric_for_best_model="accuracy", disable_tqdm=True, report_to="none",
            dataloader_pin_memory=False, use_cpu=True, ddp_backend="gloo",
        ),
        train_dataset=Sentences(512, seed=0),
        eval_dataset=Sentences(128, seed=1),
        compute_metrics=accuracy,
        callbacks=[callback, Stop()] if stop else [callback],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=last_whole(directory))
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()
    assert callback.density is not None
    print(f"rank {trainer.args.process_index} of {trainer.args.world_size}: {digest[:16]}\n", end="", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), "stop" in sys.argv)
