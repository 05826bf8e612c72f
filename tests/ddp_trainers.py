"""Accelerate and Lightning in two processes: `torchrun --nproc_per_node 2 tests/ddp_trainers.py WHICH DIR`.

WHICH is `accelerate` (DDP wrapped before apply), `accelerate-after`, or `lightning`. Each process trains on its own
part of the data, with a teacher, dropped layers and learned masks, is resumed in the middle, and prints a hash of what
came out, whether the resumed training has the same, how far the weights are from one process with all the data, and
which files of DIR it has written.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from sparsify import Manager, Recipe
from tests.modifiers.distill.students import bert
from tests.processes import leave

STEPS, STOP = 10, 6
RECIPE = """
version: 1
modifiers:
  - {type: layer_drop, keep: [0, 2]}
  - {type: distill, logits: {temperature: 2}, hidden: {loss: mse, learning_rate: 0.01}, hardness: 0.7}
  - {type: prune, criterion: movement, scope: global, sparsity: 0.5}
"""


def rows(step: int, ranks: list[int]) -> dict[str, torch.Tensor]:
    """Return what some processes have of the batch of a step."""
    made = torch.Generator().manual_seed(step)
    ids = torch.randint(2, 40, (2, 4, 6), generator=made)[ranks].flatten(0, 1)
    labels = torch.randint(3, (2, 4), generator=made)[ranks].flatten()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


class Mine:
    """The batches of a process; says where it is."""

    def __init__(self) -> None:
        self.at = 0

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[Any]:
        self.at %= STEPS
        while self.at < STEPS:
            self.at += 1
            yield rows(self.at - 1, [dist.get_rank()])

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


def writes_in(folder: Path) -> set[str]:
    """Return the names of the files in a folder that this process opens to write, as they come."""
    found: set[str] = set()
    save = torch.save

    def note(path: Any) -> None:
        if isinstance(path, (str, bytes, os.PathLike)):
            place = Path(os.fsdecode(path)).resolve()
            if place.is_relative_to(folder.resolve()):
                found.add(str(place.relative_to(folder.resolve())))

    def opened(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            note(arguments[0])

    def saved(thing: Any, file: Any, *arguments: Any, **options: Any) -> None:
        note(file)  # torch opens it beside Python
        save(thing, file, *arguments, **options)

    torch.save = saved
    sys.addaudithook(opened)
    return found


def student(seed: int = 0) -> Any:
    return bert(layers=3, seed=seed)


def bindings() -> dict[str, Any]:
    return {"teacher": bert(layers=3, seed=1, hidden_size=24)}


def alone() -> nn.Module:
    """One process with all the data."""
    model = student().train()
    manager = Manager(Recipe.parse(RECIPE)).attach(model, **bindings())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    manager.apply(model, optimizer, total_steps=STEPS, **bindings())
    for step in range(STEPS):
        manager.on_step_begin()
        optimizer.zero_grad()
        outputs = model(**rows(step, [0, 1]))
        manager.on_loss(outputs.loss, outputs).backward()
        manager.on_before_optimizer_step()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        manager.on_step_end()
    manager.finalize()
    return model


def with_accelerate(folder: Path, before: bool, resume: bool) -> nn.Module:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state()
    GradientState._reset_state()
    accelerator = Accelerator(cpu=True)
    inner = student(7 if resume else 0).train()
    manager = Manager(Recipe.parse(RECIPE)).attach(inner, **bindings())
    optimizer: Any = torch.optim.SGD(inner.parameters(), lr=0.05)
    model: Any = inner
    if before:
        model, optimizer = accelerator.prepare(inner, optimizer)
    manager.apply(model, optimizer, total_steps=STEPS, **bindings())
    if not before:
        model, optimizer = accelerator.prepare(inner, optimizer)
    accelerator.register_for_checkpointing(manager)
    if resume:
        accelerator.load_state(str(folder / "state"))
    while manager.step < STEPS:
        with accelerator.accumulate(model):
            manager.on_step_begin()
            outputs = model(**rows(manager.step, [accelerator.process_index]))
            accelerator.backward(manager.on_loss(outputs.loss, outputs))
            manager.on_before_optimizer_step()
            manager.clip_grad_norm_(0.5)
            optimizer.step()
            optimizer.zero_grad()
            manager.on_step_end()
        if manager.step == STOP and not resume:
            accelerator.save_state(str(folder / "state"))
            accelerator.wait_for_everyone()
    manager.finalize(folder if accelerator.is_main_process else None)
    return inner


def with_lightning(folder: Path, resume: bool) -> nn.Module:
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import ModelCheckpoint

    from sparsify.integrations.lightning import SparsifyCallback

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = student(7 if resume else 0).train()

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.net(**batch).loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.net.parameters(), lr=0.05)

    module, saver = Module(), ModelCheckpoint(folder, filename="{step}", every_n_train_steps=STOP, save_top_k=-1)
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, logger=False, gradient_clip_val=0.5,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=str(folder),
        callbacks=[SparsifyCallback(Recipe.parse(RECIPE), bindings=bindings()), saver], use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, Mine(), ckpt_path=str(folder / f"step={STOP}.ckpt") if resume else None)
    return module.net


def main(which: str, folder: Path) -> None:
    found, written = [], writes_in(folder)
    for resume in (False, True):
        if which == "lightning":
            found.append(with_lightning(folder, resume))
        else:
            found.append(with_accelerate(folder, which == "accelerate", resume))
    values = [torch.cat([p.detach().flatten() for p in model.parameters()]) for model in (*found, alone())]
    digest = hashlib.sha256(values[0].numpy().tobytes()).hexdigest()[:16]
    far = float((values[0] - values[2]).abs().max())
    again = torch.equal(values[0], values[1])
    print(
        f"rank {dist.get_rank()} of {dist.get_world_size()}: {digest} resumed {again} far {far:.1e}\n",
        end="",
        flush=True,
    )
    print(f"rank {dist.get_rank()} wrote {json.dumps(sorted(written))}\n", end="", flush=True)
    leave()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]))
