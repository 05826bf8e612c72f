"""Lightning's other callbacks and modes: averages, the best checkpoint, early stopping, evaluation, exceptions."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from sparsify import HookError, PlanError, SparsityError
from sparsify.errors import TrainingError
from sparsify.lock import FolderLock
from tests.lightnings import CRITERIA, QUIET, RECIPE, Batches, Distilled, Module, callback, same, trainer
from tests.modifiers.distill.students import batch, bert
from tests.modifiers.test_stages import RECIPE as STAGES

pytestmark = QUIET
STEPS = 12
averaging = pytest.importorskip("lightning.pytorch.callbacks.weight_averaging")
DISTILL = "version: 1\nmodifiers:\n  - {type: distill, logits: {}}\n  - {type: prune, sparsity: 0.5}\n"


def masks(ours: Any) -> dict[str, Tensor]:
    return {masked.weight.parameter_name: masked.mask for masked in ours.manager._masks}


def is_sparse(model: torch.nn.Module, ours: Any) -> bool:
    named = dict(model.named_parameters())
    return all(bool((named[name][~mask] == 0).all()) for name, mask in masks(ours).items())


# ---------------------------------------------------------------------- averages of weights


class Looks(Module):
    """Notes whether what is evaluated is sparse."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        if not self.trainer.sanity_checking:
            ours = next(each for each in self.trainer.callbacks if type(each).__name__ == "SparsifyCallback")
            self.seen.append(is_sparse(self.net, ours))

    seen: list[bool] = []


@pytest.mark.parametrize("kind", CRITERIA)
@pytest.mark.parametrize("first", [True, False])
def test_averages_end_under_the_masks_in_any_order(tmp_path: Path, kind: str, first: bool) -> None:
    ours = callback(CRITERIA[kind])
    average = averaging.EMAWeightAveraging(decay=0.6)
    saver = ModelCheckpoint(tmp_path / "kept", every_n_train_steps=4, save_top_k=-1, filename="{step}")
    order = [ours, average, saver] if first else [saver, average, ours]
    module = Looks()
    module.seen = []
    trainer(tmp_path, *order, enable_checkpointing=True, max_epochs=2, check_val_every_n_epoch=1).fit(
        module, Batches(6), Batches(2)
    )
    assert module.seen
    assert all(module.seen), "the average that is evaluated is sparse"
    assert ours.density is not None
    assert is_sparse(module.net, ours)
    zeros = sum(int((p == 0).sum()) for p in module.net.parameters() if p.dim() == 2)
    assert zeros == ours.density.targeted.elements - ours.density.targeted.nonzeros
    saved = torch.load(tmp_path / "kept" / "step=8.ckpt", weights_only=True)
    assert all(bool((saved["state_dict"][f"net.{name}"][~mask] == 0).all()) for name, mask in masks(ours).items())
    assert not torch.equal(saved["state_dict"]["net.0.weight"], saved["current_model_state"]["net.0.weight"])


@pytest.mark.parametrize("first", [True, False])
def test_averages_of_a_model_whose_layers_are_dropped_go_on_too(tmp_path: Path, first: bool) -> None:
    def training(seed: int, *more: Any, resume: Path | None = None) -> Distilled:
        module = Distilled(bert(layers=4, seed=seed))
        ours = callback(STAGES, bindings={"teacher": bert(layers=4, seed=9, hidden_size=24)})
        both = [ours, averaging.EMAWeightAveraging(decay=0.6)]
        made = trainer(tmp_path, *(both if first else both[::-1]), *more, enable_checkpointing=bool(more))
        made.fit(module, Batches(STEPS, batch), ckpt_path=None if resume is None else str(resume))
        assert is_sparse(module.net, ours)
        return module

    saver = ModelCheckpoint(tmp_path / "kept", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    whole = training(0, saver)
    same(whole, training(4, resume=tmp_path / "kept" / "step=6.ckpt"))


def test_stochastic_weight_averaging_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="use WeightAveraging or EMAWeightAveraging"):
        trainer(tmp_path, StochasticWeightAveraging(1e-2), callback()).fit(Module(), Batches(STEPS))


# ---------------------------------------------------------------------- the best one


class Worse(Module):
    """The loss of an evaluation rises with every epoch: the dense model would be the best one."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", torch.tensor(float(self.trainer.current_epoch)))


@pytest.mark.parametrize("below", [False, True])
def test_the_best_checkpoint_and_early_stopping_wait_for_the_target(tmp_path: Path, below: bool) -> None:
    ours = callback(best_below_target=below)
    saver = ModelCheckpoint(tmp_path / "kept", monitor="val_loss", filename="{epoch}", save_top_k=1)
    stopping = EarlyStopping("val_loss", patience=2)
    made = trainer(tmp_path, saver, stopping, ours, enable_checkpointing=True, max_epochs=9)
    if below:
        with pytest.raises(SparsityError, match="ended after 6 steps"):
            made.fit(Worse(), Batches(2), Batches(1))
        return
    made.fit(Worse(), Batches(2), Batches(1))
    assert Path(saver.best_model_path).stem == "epoch=3", "at step 8 the target was reached"
    assert made.current_epoch == 6, "that epoch, and two of patience"
    state = torch.load(saver.best_model_path, weights_only=True)["state_dict"]
    zeros = sum(int((value == 0).sum()) for value in state.values() if value.dim() == 2)
    assert ours.density is not None
    assert zeros == ours.density.targeted.elements - ours.density.targeted.nonzeros


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")
def test_what_is_saved_at_a_step_is_not_ranked_by_a_metric_of_before(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path / "kept", monitor="val_loss", every_n_train_steps=1, filename="{step}", save_top_k=2)  # fmt: skip
    made = trainer(tmp_path, saver, callback(), enable_checkpointing=True, val_check_interval=5)
    made.fit(Module(), Batches(15), Batches(2))
    assert all(int(Path(path).stem.partition("=")[2].partition("-")[0]) >= 9 for path in saver.best_k_models)


# ---------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("kind", [*CRITERIA, "admm"])
def test_evaluations_change_nothing_and_see_a_sparse_model(tmp_path: Path, kind: str) -> None:
    """In the middle of an accumulation too; and before and after the training, by itself."""
    text = CRITERIA.get(kind, RECIPE.replace("type: prune,", "type: prune, masking: admm,"))
    models = []
    for evaluated in (False, True):
        module = Looks() if evaluated and kind != "admm" else Module()
        ours = callback(text)
        made = trainer(tmp_path, ours, accumulate_grad_batches=2, val_check_interval=3, limit_val_batches=2 if evaluated else 0)  # fmt: skip
        if evaluated:
            made.validate(module, Batches(2), verbose=False)
        made.fit(module, Batches(24), Batches(2))
        if evaluated:
            before, density = ours.manager, ours.density
            made.validate(module, Batches(2), verbose=False)
            assert (ours.manager, ours.density) == (before, density)
        models.append(module.net)
    same(*models)


def test_a_dropped_model_is_tested_from_its_checkpoint(tmp_path: Path) -> None:
    text = "version: 1\nmodifiers:\n  - {type: layer_drop, keep: [0, 2]}\n  - {type: prune, sparsity: 0.5}\n"
    made = trainer(tmp_path, callback(text))
    made.fit(Distilled(bert(layers=4)), Batches(4, batch))
    made.save_checkpoint(tmp_path / "last.ckpt")
    again = trainer(tmp_path, callback(text))
    found = again.validate(Distilled(bert(layers=4, seed=3)), Batches(2, batch), ckpt_path=str(tmp_path / "last.ckpt"), verbose=False)  # fmt: skip
    assert found == made.validate(dataloaders=Batches(2, batch), model=made.lightning_module, verbose=False)


def test_loggers_see_sparsity_and_target(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    ours = callback()
    trainer(tmp_path, ours, logger=logger, log_every_n_steps=2).fit(Module(), Batches(STEPS))
    rows = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("target_sparsity")
    assert float(rows[-1].split(",")[column]) == 0.75
    assert len(rows) == 1 + STEPS // 2
    assert (Path(logger.log_dir) / "recipe.yaml").is_file()


# ---------------------------------------------------------------------- trainings that are not ordinary


@pytest.mark.parametrize("window", ["{begin: 10%, end: 70%}", "{begin: 1 epoch, end: 2 epochs, every: 1 step}"])
def test_fast_dev_run_rehearses(tmp_path: Path, window: str) -> None:
    ours = callback(RECIPE.replace("{begin: 1, end: 8, every: 2}", window))
    trainer(tmp_path, ours, fast_dev_run=True).fit(Module(), Batches(STEPS), Batches(1))
    assert ours.density is not None
    assert not list(tmp_path.iterdir())


def test_a_training_that_ends_early_says_so(tmp_path: Path) -> None:
    class Slow(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            time.sleep(0.05)
            return super().training_step(batch, batch_idx)

    with pytest.raises(SparsityError, match="training ended after"):
        trainer(tmp_path, callback(), max_time=timedelta(seconds=0.1)).fit(Slow(), Batches(STEPS))


def test_two_fits_with_one_callback(tmp_path: Path) -> None:
    ours, first, second = callback(), Module(), Module()
    made = trainer(tmp_path, ours)
    made.fit(first, Batches(STEPS))
    manager = ours.manager
    trainer(tmp_path, ours).fit(second, Batches(STEPS))
    same(first, second)
    assert ours.manager is not manager
    made.fit_loop.max_epochs = 2
    made.fit(first, Batches(STEPS))  # the same trainer goes on: what is left is the length
    assert ours.manager.plan.total_steps == STEPS
    assert ours.density is not None


@pytest.mark.parametrize("epochs", [2, 3])
def test_epochs_and_limits_are_known(tmp_path: Path, epochs: int) -> None:
    text = RECIPE.replace("{begin: 1, end: 8, every: 2}", "{begin: 50%, end: 2 epochs, every: 1}")
    ours = callback(text)
    trainer(tmp_path, ours, max_epochs=epochs, limit_train_batches=7, accumulate_grad_batches=2).fit(
        Module(), Batches(30)
    )
    window = ours.manager.plan.modifiers[0].window
    assert (window.begin, window.end) == (2 * epochs, 8)


# ---------------------------------------------------------------------- exceptions


class Breaks(pl.Callback):
    def __init__(self, where: str, at: int = 5) -> None:
        def fail(made: pl.Trainer, *_: Any) -> None:
            if made.global_step >= at:
                raise MemoryError(where)

        setattr(self, where, fail)


@pytest.mark.parametrize("kind", CRITERIA)
@pytest.mark.parametrize("where", ["on_before_optimizer_step", "on_train_batch_end", "on_validation_batch_end"])
def test_an_exception_leaves_a_sparse_model(tmp_path: Path, kind: str, where: str) -> None:
    module, ours = Module(), callback(CRITERIA[kind])
    made = trainer(tmp_path, ours, Breaks(where), val_check_interval=3)
    with pytest.raises(MemoryError):
        made.fit(module, Batches(STEPS), Batches(2))
    assert is_sparse(module.net, ours)
    assert not module.net._forward_hooks
    whole = callback(CRITERIA[kind])
    trainer(tmp_path, whole).fit(module, Batches(STEPS))
    assert whole.density is not None


def test_a_checkpoint_of_an_exception_is_gone_on_with(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path / "kept", save_on_exception=True, every_n_train_steps=100, filename="{step}")
    if not hasattr(saver, "save_on_exception"):
        pytest.skip("this version has none")
    with pytest.raises(MemoryError):
        trainer(tmp_path, saver, Breaks("on_train_batch_end"), callback(), enable_checkpointing=True).fit(Module(), Batches(STEPS))  # fmt: skip
    saved = torch.load(tmp_path / "kept" / "step=5.ckpt", weights_only=True)
    assert saved["callbacks"]["SparsifyCallback"]["manager"]["clock"]["step"] == 5


def test_one_training_a_folder(tmp_path: Path) -> None:
    held = FolderLock(tmp_path, "")
    with pytest.raises(TrainingError, match="give SparsifyCallback another directory"):
        trainer(tmp_path, callback()).fit(Module(), Batches(STEPS))
    held.release()


@pytest.mark.parametrize("keeps", [False, True])
def test_nothing_of_ours_comes_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keeps: bool
) -> None:
    """Where no place was named Lightning's own is the working folder: no lock lies there, and no report."""
    monkeypatch.chdir(tmp_path)
    seen: list[str] = []

    class Looks(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            seen.extend(path.name for path in Path().iterdir())

    ours = callback()
    trainer(Path(), ours, Looks(), enable_checkpointing=keeps).fit(Module(), Batches(STEPS))
    assert ours.density is not None
    assert set(seen) <= {"checkpoints"}
    assert {path.name for path in tmp_path.iterdir()} == ({"checkpoints"} if keeps else set())
    assert (tmp_path / "checkpoints" / "report.json").is_file() == keeps


# ---------------------------------------------------------------------- distillation


@pytest.mark.parametrize("compiled", [False, True])
def test_the_hook_and_the_line_do_the_same(tmp_path: Path, compiled: bool) -> None:
    models = []
    for own in (False, True):
        net = bert()
        module = Distilled(net, own)
        if compiled:
            module.net = torch.compile(net, backend="eager")
        ours = callback(DISTILL, bindings={"teacher": bert(seed=1)})
        trainer(tmp_path, ours).fit(module, Batches(6, batch), Batches(1, batch))
        assert ours.manager._runs[0].report()["losses"] == 6
        models.append(net)
    same(*models)


def test_an_evaluation_in_an_accumulation_keeps_what_projections_were_given(tmp_path: Path) -> None:
    models = []
    for evaluated in (0, 2):
        module = Distilled(bert())
        text = DISTILL.replace("logits: {}", "logits: {}, hidden: {loss: mse, learning_rate: 0.1}")
        ours = callback(text, bindings={"teacher": bert(seed=1, hidden_size=24)})
        made = trainer(tmp_path, ours, accumulate_grad_batches=3, val_check_interval=4, limit_val_batches=evaluated)
        made.fit(module, Batches(24, batch), Batches(2, batch))
        models.append(module.net)
    same(*models)


class Twice(Distilled):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        from sparsify.integrations.lightning import on_loss

        outputs = self.net(**batch)
        return on_loss(self, outputs.loss, outputs)


class Without(Distilled):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        labels = batch.pop("labels")
        return torch.nn.functional.cross_entropy(self.net(**batch).logits, labels)


@pytest.mark.parametrize(
    ("kind", "message"), [(Twice, r"leave on_loss\(\) out"), (Without, r"on_loss\(\) was not called in this step")]
)
def test_a_loss_with_the_terms_twice_or_never_is_refused(tmp_path: Path, kind: type[Distilled], message: str) -> None:
    ours = callback(DISTILL, bindings={"teacher": bert(seed=1)})
    with pytest.raises(HookError, match=message):
        trainer(tmp_path, ours).fit(kind(bert()), Batches(6, batch))
