"""Qwen3 with LoRA in TRL's SFTTrainer: half of the base is pruned while the adapter learns, and both load again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sparsify import PlanError, Recipe, StateError, adapters
from sparsify.integrations.transformers import SparsifyCallback, last_whole
from tests.adapted import logits, peft, qwen3
from tests.integrations.test_trl import tokenizer
from tests.trainers import Breaks, same

trl = pytest.importorskip("trl", exc_type=ImportError)
pytestmark = [pytest.mark.usefixtures("quiet_libraries"), pytest.mark.filterwarnings("default")]
RECIPE = """
version: 1
modifiers:
  - {type: prune, sparsity: 0.5, window: {begin: 1, end: 7, every: 1 step}}
"""
REACHED = 7


class Zeros(transformers.TrainerCallback):
    """Counts the zeros of the base after every step, and lora_B's that are not."""

    def __init__(self) -> None:
        self.zeros: list[int] = []
        self.learned: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        base = adapters.base_state_dict(model)
        self.zeros.append(sum(int((p == 0).sum()) for name, p in base.items() if "layers" in name and p.dim() > 1))
        self.learned.append(sum(int(p.count_nonzero()) for name, p in model.named_parameters() if "lora_B" in name))


def trainer(
    folder: Path, *callbacks: Any, fields: dict[str, Any] | None = None, **more: Any
) -> tuple[Any, SparsifyCallback]:
    import datasets

    made = torch.Generator().manual_seed(0)
    lines = [
        " ".join(f"w{int(word)}" for word in torch.randint(2, 40, (3 + row % 4,), generator=made)) for row in range(24)
    ]
    callback = SparsifyCallback(Recipe.parse(RECIPE), **(fields or {}))
    options: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "steps",
        "save_steps": 4,
        "max_length": 16,
    }
    rows = datasets.Dataset.from_dict({"text": lines})
    found = trl.SFTTrainer(
        qwen3(),
        args=trl.SFTConfig(str(folder), **options | more),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer(),
        peft_config=peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[callback, *callbacks],
    )
    found.remove_callback(transformers.PrinterCallback)
    return found, callback


def load(adapter: Path) -> Any:
    """What stock libraries make of an adapter and of the base that it names."""
    named = peft.PeftConfig.from_pretrained(adapter).base_model_name_or_path
    return peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(named), adapter)


def test_the_base_is_pruned_while_the_adapter_learns(tmp_path: Path) -> None:
    watch = Zeros()
    made, callback = trainer(tmp_path / "out", watch, eval_strategy="steps", eval_steps=5)
    made.train()
    assert callback.density is not None
    assert callback.density.targeted.sparsity == 0.5
    half = callback.density.targeted.elements // 2
    assert watch.zeros == sorted(watch.zeros)
    assert watch.zeros[REACHED - 1 :] == [half] * (12 - REACHED + 1)
    assert min(watch.learned) > 0
    assert any("output_dir/base" in note for note in callback.manager.plan.notes)

    made.save_model(str(tmp_path / "final"))
    for adapter in (tmp_path / "final", tmp_path / "out" / "checkpoint-12"):
        loaded = load(adapter)
        assert torch.equal(logits(loaded), logits(made.model)), adapter.name
        stock = peft.AutoPeftModelForCausalLM.from_pretrained(adapter)
        assert torch.equal(logits(stock), logits(made.model)), adapter.name
    with pytest.raises(OSError, match=r"checkpoint-4/base"):  # no dense base without a word
        peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out" / "checkpoint-4")

    merged = adapters.merge(load(tmp_path / "final"))
    zeros = sum(int((p == 0).sum()) for name, p in merged.state_dict().items() if "layers" in name and p.dim() > 1)
    assert zeros == half


@pytest.mark.parametrize("step", [4, 8])
def test_a_training_is_resumed_from_a_dense_base(tmp_path: Path, step: int) -> None:
    """The checkpoint has the adapter and the masks; step 8 lies behind the last update."""
    whole, _ = trainer(tmp_path / "whole")
    whole.train()
    cut, _ = trainer(tmp_path / "out", Breaks(step + 1))
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    last = last_whole(tmp_path / "out")
    assert last is not None
    assert last.name == f"checkpoint-{step}"
    resumed, callback = trainer(tmp_path / "out")
    resumed.train(resume_from_checkpoint=str(last))
    same(whole.model, resumed.model)
    assert callback.density is not None
    assert callback.density.targeted.sparsity == 0.5
    assert torch.equal(logits(load(tmp_path / "out" / "checkpoint-12")), logits(whole.model))


@pytest.mark.parametrize("only_model", [False, True])
def test_the_best_checkpoint_is_over_the_base_that_is_saved(tmp_path: Path, only_model: bool) -> None:
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    made, callback = trainer(tmp_path, **best, metric_for_best_model="loss", save_only_model=only_model)
    made.train()
    assert callback.density is not None
    picked = Path(made.state.best_model_checkpoint)
    assert int(picked.name.split("-")[1]) >= REACHED
    assert torch.equal(logits(load(picked)), logits(made.model))


def test_a_best_checkpoint_below_the_target_is_refused(tmp_path: Path) -> None:
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 4}
    made, _ = trainer(tmp_path, fields={"best_below_target": True}, **best)
    with pytest.raises(PlanError, match="best_below_target=True with adapters"):
        made.train()


def test_a_folder_in_the_way_is_refused_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "mine.txt").touch()
    made, _ = trainer(tmp_path)
    with pytest.raises(StateError, match="base holds something that is no model"):
        made.train()
    assert made.state.global_step == 0


def test_without_checkpoints_the_base_is_saved_all_the_same(tmp_path: Path) -> None:
    made, _ = trainer(tmp_path, save_strategy="no")
    made.train()
    assert sorted(path.name for path in tmp_path.iterdir()) >= ["base", "recipe.yaml", "report.json"]
    notes = json.loads((tmp_path / "report.json").read_text())["plan"]["notes"]
    assert any("output_dir/base" in note for note in notes)
