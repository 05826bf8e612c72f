"""Lightning's stock Trainer with our callback: the step, in automatic and manual optimization."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import HookError, Manager, PlanError, Recipe
from tests.lightnings import CRITERIA, QUIET, Batches, Module, callback, mlp, same, trainer
from tests.loop import adamw, batch

pytestmark = QUIET
STEPS = 12


def by_hand(text: str, accumulate: int = 1, norm: float | None = None) -> tuple[nn.Module, Any]:
    """The same training in a loop of one's own."""
    model = mlp()
    optimizer = adamw(model)
    manager = Manager(Recipe.parse(text)).apply(model, optimizer, total_steps=STEPS)
    for step in range(STEPS):
        manager.on_step_begin()
        optimizer.zero_grad()
        for micro in range(accumulate):
            inputs, wanted = batch(step * accumulate + micro)
            ((model(inputs) - wanted).square().mean() / accumulate).backward()
        manager.on_before_optimizer_step()
        if norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), norm)
        optimizer.step()
        manager.on_step_end()
    return model, manager.finalize()


class Manual(Module):
    """The same training, by hand: accumulation and clipping of its own."""

    def __init__(self, accumulate: int, norm: float | None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.accumulate, self.norm = accumulate, norm

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        if batch_idx % self.accumulate == 0:
            optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx) / self.accumulate)
        if batch_idx % self.accumulate == self.accumulate - 1:
            if self.norm is not None:
                self.clip_gradients(optimizer, self.norm, "norm")
            optimizer.step()


@pytest.mark.parametrize("kind", CRITERIA)
@pytest.mark.parametrize(("accumulate", "norm"), [(1, None), (3, 0.05)])
@pytest.mark.parametrize("manual", [False, True])
def test_it_trains_as_a_loop_with_the_hooks_does(
    tmp_path: Path, kind: str, accumulate: int, norm: float | None, manual: bool
) -> None:
    """The same weights bit by bit: masks, clock, accumulation, clipping over masked gradients."""
    wanted, density = by_hand(CRITERIA[kind], accumulate, norm)
    ours = callback(CRITERIA[kind], total_steps=STEPS if manual else None)
    module: Module = Manual(accumulate, norm) if manual else Module()
    more = {} if manual else {"accumulate_grad_batches": accumulate, "gradient_clip_val": norm}
    made = trainer(tmp_path, ours, **more)
    plugin = dict(vars(made.precision_plugin))
    made.fit(module, Batches(STEPS * accumulate))
    same(module.net, wanted)
    assert ours.density == density
    assert (tmp_path / "report.json").is_file()
    assert vars(made.precision_plugin) == plugin, "clipping is given back"


class Several(Module):
    """Two optimizers of one model, as Muon and AdamW; in one batch, several steps."""

    def __init__(self, steps: int = 1, late: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.steps, self.late = steps, late

    def configure_optimizers(self) -> Any:
        last = list(self.net[4].parameters())  # type: ignore[index]
        first = [parameter for parameter in self.net.parameters() if all(parameter is not each for each in last)]
        return [torch.optim.SGD(first, lr=0.05), torch.optim.AdamW(last, lr=0.01)]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for _ in range(self.steps):
            one, other = self.optimizers()
            one.zero_grad()
            other.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            one.step()
            if self.late:
                self.manual_backward(super().training_step(batch, batch_idx))
            other.step()


@pytest.mark.parametrize("kind", CRITERIA)
@pytest.mark.parametrize("steps", [1, 2])
def test_several_optimizers_and_several_steps_a_batch(tmp_path: Path, kind: str, steps: int) -> None:
    ours, module = callback(CRITERIA[kind], total_steps=STEPS), Several(steps)
    trainer(tmp_path, ours).fit(module, Batches(STEPS // steps))
    assert ours.manager.step == STEPS

    model = mlp()
    last = list(model[4].parameters())
    first = [parameter for parameter in model.parameters() if all(parameter is not each for each in last)]
    optimizers = [torch.optim.SGD(first, lr=0.05), torch.optim.AdamW(last, lr=0.01)]
    manager = Manager(Recipe.parse(CRITERIA[kind])).apply(model, optimizers, total_steps=STEPS)
    for step in range(STEPS):
        manager.on_step_begin()
        for optimizer in optimizers:
            optimizer.zero_grad()
        inputs, wanted = batch(step // steps)
        (model(inputs) - wanted).square().mean().backward()
        manager.on_before_optimizer_step()
        for optimizer in optimizers:
            optimizer.step()
        manager.on_step_end()
    assert manager.finalize() == ours.density
    same(module.net, model)


def test_a_backward_between_the_steps_of_two_optimizers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HookError, match="make all backwards first"):
        trainer(tmp_path, callback(total_steps=STEPS)).fit(Several(late=True), Batches(STEPS))


class Adversaries(Module):
    """Two models against each other, each with its optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.other = mlp(1)

    def configure_optimizers(self) -> Any:
        return [torch.optim.AdamW(each.parameters(), lr=0.01) for each in (self.net, self.other)]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        one, other = self.optimizers()
        for optimizer, sign in ((one, 1), (other, -1)):
            loss = (self.net(batch[0]) - self.other(batch[0])).square().mean() * sign
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(optimizer, 0.1, "norm")
            optimizer.step()


def test_two_callbacks_for_two_models(tmp_path: Path) -> None:
    one = callback(model="net", directory=tmp_path / "net")
    other = callback(CRITERIA["movement"], model=lambda module: module.other, directory=tmp_path / "other")
    module = Adversaries()
    trainer(tmp_path, one, other).fit(module, Batches(STEPS))
    for each in (one, other):
        assert each.density is not None
        assert each.density.targeted.sparsity == pytest.approx(0.75, abs=1e-3)
    assert (tmp_path / "other" / "report.json").is_file()
    with pytest.raises(PlanError, match="has no such module"):
        trainer(tmp_path, callback(model="nothing")).fit(Module(), Batches(STEPS))


class Skips(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:  # type: ignore[override]
        return None if batch_idx % 3 == 1 else super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_training_step_that_returns_nothing(tmp_path: Path) -> None:
    ours = callback()
    trainer(tmp_path, ours).fit(Skips(), Batches(STEPS))
    assert ours.density is not None


@pytest.mark.parametrize("manual", [False, True])
@pytest.mark.parametrize("kind", ["magnitude", "movement"])
def test_mixed_precision(tmp_path: Path, kind: str, manual: bool) -> None:
    ours = callback(CRITERIA[kind])
    module: Module = Manual(1, 0.1) if manual else Module()
    trainer(tmp_path, ours, precision="bf16-mixed").fit(module, Batches(STEPS))
    assert ours.density is not None


class Overflows(Module):
    """Every third loss is infinite."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * float("inf") if batch_idx % 3 == 1 else loss


@pytest.mark.parametrize("kind", CRITERIA)
def test_a_scaler_that_skips_steps(tmp_path: Path, kind: str) -> None:
    from lightning.pytorch.plugins import MixedPrecision

    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=8.0))
    ours = callback(CRITERIA[kind])
    made = trainer(tmp_path, ours, plugins=[plugin], gradient_clip_val=0.1)
    made.fit(Overflows(), Batches(18))
    assert ours.manager.step == 12
    assert made.global_step == 18
    assert ours.density is not None


@pytest.mark.parametrize("kind", ["magnitude", "movement"])
def test_an_optimizer_that_runs_its_closure_again(tmp_path: Path, kind: str) -> None:
    class Lbfgs(Module):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.net.parameters(), lr=0.1, max_iter=3)

    made = trainer(tmp_path, callback(CRITERIA[kind]))
    if kind == "movement":
        with pytest.raises(HookError, match="a closure was run twice"):
            made.fit(Lbfgs(), Batches(STEPS))
    else:
        made.fit(Lbfgs(), Batches(STEPS))


def test_sharded_strategies_are_refused(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from sparsify.integrations.lightning.others import refuse

    class FSDPStrategy:
        pass

    with pytest.raises(PlanError, match="FSDPStrategy shards the parameters"):
        refuse(SimpleNamespace(strategy=FSDPStrategy(), callbacks=[]))


@pytest.mark.slow
def test_the_package_under_its_other_name(tmp_path: Path) -> None:
    """In a process of its own: the program's first import decides."""
    pytest.importorskip("pytorch_lightning")
    script = f"import pytorch_lightning, pathlib\nfrom sparsify.integrations.lightning import example\nexample.main(pathlib.Path({str(tmp_path)!r}))"
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert "90.0% of the targeted weights zero" in done.stdout, done.stderr[-2000:]


def test_the_example_runs_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sparsify.integrations.lightning import example

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a loader is read by one process: said where there are several processors
        example.main(tmp_path)
    text = capsys.readouterr().out
    assert float(text.rpartition("accuracy ")[2].partition("%")[0]) > 90
    assert "90.0% of the targeted weights zero" in text
