"""The loop with Accelerate: accumulation, clipping, mixed precision, exact resume."""

from __future__ import annotations

import random
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sparsify import Manager, Recipe
from tests.killing import killed
from tests.lightnings import CRITERIA, mlp, same
from tests.loop import adamw
from tests.loop import batch as rows
from tests.modifiers.distill.students import bert
from tests.modifiers.test_stages import RECIPE as STAGES

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
ROWS, BATCH, ACCUMULATE = 40, 4, 2
EPOCHS, PER_EPOCH = 3, 5


def accelerator(**more: Any) -> Any:
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration

    options: dict[str, Any] = {"cpu": True, "gradient_accumulation_steps": ACCUMULATE}
    return Accelerator(dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True), **{**options, **more})


class Rows(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict[str, Any]:
        made = torch.Generator().manual_seed(index)
        return {"input_ids": torch.randint(2, 40, (6,), generator=made), "labels": index % 3}


def loss_of(model: nn.Module, batch: Any) -> Any:
    outputs = model(**batch)
    return outputs.loss, outputs


def stages(folder: Path, seed: int = 0, *, save_every: int = 100) -> nn.Module:
    """Three stages: layers dropped, distilled, learned masks; another teacher; a lock. With dropout, shuffled."""
    from sparsify.integrations.accelerate.loop import train

    torch.manual_seed(3)
    loader = torch.utils.data.DataLoader(Rows(), batch_size=BATCH, shuffle=True, generator=torch.Generator())
    made = accelerator()
    model = bert(layers=4, seed=seed, hidden_dropout_prob=0.1)
    torch.manual_seed(seed)
    teacher = bert(layers=4, seed=9, hidden_size=24)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    torch.manual_seed(3)
    train(made, model, optimizer, loader, loss_of, Recipe.parse(STAGES), folder, epochs=EPOCHS, save_every=save_every, teacher=teacher)  # fmt: skip
    assert len(model.bert.encoder.layer) == 3
    return model


def test_a_resume_in_every_stage_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = stages(tmp_path / "whole", save_every=1)
    for stop in (1, 3, 4, 5, 7, 9, 10, 13):
        _again()
        name = f"checkpoint-{stop}"
        shutil.copytree(tmp_path / "whole" / name, tmp_path / f"{stop}" / name)
        same(whole, stages(tmp_path / f"{stop}", seed=5))


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    from sparsify.integrations.accelerate import last_whole

    whole = stages(tmp_path / "whole", save_every=4)
    for number in (8, 12):
        shutil.copytree(tmp_path / "whole" / f"checkpoint-{number}", tmp_path / "cut" / f"checkpoint-{number}")
    (tmp_path / "cut" / "checkpoint-12" / "complete.json").unlink()
    (tmp_path / "cut" / "checkpoint-12" / "custom_checkpoint_0.pkl").write_bytes(b"")
    assert last_whole(tmp_path / "cut") == tmp_path / "cut" / "checkpoint-8"
    _again()
    same(whole, stages(tmp_path / "cut", seed=5))


@pytest.mark.slow
def test_a_dozen_kills_at_random_moments(tmp_path: Path) -> None:
    from sparsify.integrations.accelerate import last_whole

    chance, whole = random.Random(0), stages(tmp_path / "whole", save_every=1)
    for trial in range(4):
        folder = tmp_path / str(trial)
        for _ in range(3):
            moment = chance.choice(["checkpoint", "step", "time"])
            count = chance.uniform(0.05, 3) if moment == "time" else chance.randint(1, 9)
            killed("accelerate", folder, moment, count)
        _again()
        seed = 5 if last_whole(folder) else 0  # killed before the first checkpoint, it begins anew
        same(whole, stages(folder, seed=seed, save_every=1))


@pytest.mark.parametrize("kind", CRITERIA)
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_it_trains_as_a_loop_with_the_hooks_does(tmp_path: Path, kind: str, precision: str) -> None:
    """The same bits without mixed precision; with it the sparsity asked for, whatever a scaler skips."""
    from sparsify.integrations.accelerate.loop import train

    recipe = Recipe.parse(CRITERIA[kind])
    made = accelerator()
    if precision == "fp16":  # Accelerate itself has it for accelerators only
        made.scaler, made.native_amp = torch.amp.GradScaler("cpu", init_scale=8.0), False
    elif precision != "no":
        made = _again(mixed_precision=precision)
    data = [[part[row] for part in rows(number)] for number in range(12) for row in range(8)]
    loader = torch.utils.data.DataLoader(data, batch_size=4, generator=torch.Generator())  # type: ignore[arg-type]

    def squared(model: nn.Module, batch: Any) -> Any:
        loss = (model(batch[0]) - batch[1]).square().mean()
        return (loss * float("inf") if precision == "fp16" and next(skipping) % 12 == 3 else loss), None

    skipping = iter(range(10**6))
    ours = mlp()
    train(made, ours, adamw(ours), loader, squared, recipe, tmp_path, epochs=1, max_norm=0.1)
    if precision != "no":
        return
    theirs = mlp()
    optimizer = adamw(theirs)
    manager = Manager(recipe).apply(theirs, optimizer, total_steps=12, steps_per_epoch=12)
    batches = list(loader)
    for step in range(12):
        manager.on_step_begin()
        optimizer.zero_grad()
        for micro in range(ACCUMULATE):
            (squared(theirs, batches[step * ACCUMULATE + micro])[0] / ACCUMULATE).backward()
        manager.on_before_optimizer_step()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)
        optimizer.step()
        manager.on_step_end()
    manager.finalize()
    same(ours, theirs)


def _again(**more: Any) -> Any:
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return accelerator(**more)


def test_the_loop_runs(capsys: pytest.CaptureFixture[str]) -> None:
    sys.modules.pop("sparsify.integrations.accelerate.loop", None)
    runpy.run_module("sparsify.integrations.accelerate.loop", run_name="__main__")
    text = capsys.readouterr().out
    assert float(text.rpartition("accuracy ")[2].partition("%")[0]) > 90
    assert "90.0% of the targeted weights zero" in text
