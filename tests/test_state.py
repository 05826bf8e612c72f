"""Stop at any step, resume in a new process, end bit-identical; refuse what does not belong (SPEC F)."""

from __future__ import annotations

import copy
import io
import itertools
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sparsify import HookError, Manager, StateError, checkpoint
from sparsify.bits import fingerprint
from sparsify.masking.packing import pack, unpack
from tests.loop import train, zeros

STEPS = 14
STAGED = """\
version: 1
stages:
  - name: first
    length: 50%
    modifiers: [{type: prune, targets: "*", scope: global, sparsity: 0.4, window: {begin: 1, end: 5, every: 2}}]
  - name: second
    modifiers: [{type: prune, targets: "*", sparsity: {from: existing, to: 0.8}, window: {begin: 0, end: 5}}]
"""


def build() -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return the model of `mlp`, made anew, and its optimizer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 4))
    return model, torch.optim.AdamW(model.parameters(), lr=0.01)


def staged() -> Any:
    """Return the recipe of two stages."""
    from sparsify import Recipe

    return Recipe.parse(STAGED)


def through_a_file(parts: dict[str, Any]) -> dict[str, Any]:
    """Save and load as a user would, without running code."""
    buffer = io.BytesIO()
    torch.save(parts, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)  # type: ignore[no-any-return]


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer, manager: Manager) -> dict[str, Any]:
    """Return the three states."""
    parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "manager": manager.state_dict()}
    return through_a_file(copy.deepcopy(parts))


@pytest.mark.parametrize("stop", range(STEPS + 1))
def test_resume_is_bit_exact_at_any_step(stop: int) -> None:
    model, optimizer = build()
    manager = Manager(staged()).apply(model, optimizer, total_steps=STEPS)
    train(model, optimizer, manager, range(stop))
    saved = snapshot(model, optimizer, manager)
    train(model, optimizer, manager, range(stop, STEPS))
    whole, state = model.state_dict(), manager.state_dict()

    model, optimizer = build()
    manager = Manager(staged()).apply(model, optimizer, total_steps=STEPS)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    manager.load_state_dict(saved["manager"])
    assert manager.step == stop
    train(model, optimizer, manager, range(stop, STEPS))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, whole[name])
    again = manager.state_dict()
    assert again["modifiers"] == state["modifiers"]
    assert again["weights"] == state["weights"]
    assert manager.finalize().targeted.sparsity == pytest.approx(0.8, abs=0.01)


def test_resume_in_a_new_process(tmp_path: Path) -> None:
    script = """
import sys, torch
from sparsify import Manager, checkpoint
from tests.test_state import build, staged, STEPS
from tests.loop import train
path, begin, end = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model, optimizer = build()
manager = Manager(staged()).apply(model, optimizer, total_steps=STEPS)
if begin:
    saved = checkpoint.load(path)
    model.load_state_dict(saved["model"]); optimizer.load_state_dict(saved["optimizer"])
    manager.load_state_dict(saved["manager"])
train(model, optimizer, manager, range(begin, end))
checkpoint.save(path, model=model.state_dict(), optimizer=optimizer.state_dict(), manager=manager.state_dict())
"""
    for name, cuts in (("whole", [0, STEPS]), ("parts", [0, 4, 9, STEPS])):
        for begin, end in itertools.pairwise(cuts):
            command = [sys.executable, "-c", script, str(tmp_path / f"{name}.pt"), str(begin), str(end)]
            subprocess.run(command, check=True, cwd=Path(__file__).parents[1])
    whole, parts = (checkpoint.load(tmp_path / f"{name}.pt") for name in ("whole", "parts"))
    assert all(torch.equal(whole["model"][name], parts["model"][name]) for name in whole["model"])
    assert whole["manager"]["weights"] == parts["manager"]["weights"]


def resumed(saved: dict[str, Any], other: Any = None, **clock: int) -> Manager:
    """Build everything anew and load the states."""
    model, optimizer = build()
    manager = Manager(other or staged()).apply(model, optimizer, **(clock or {"total_steps": STEPS}))
    model.load_state_dict(saved["model"])
    manager.load_state_dict(saved["manager"])
    return manager


@pytest.fixture
def saved() -> dict[str, Any]:
    """Return the states after six steps."""
    model, optimizer = build()
    manager = Manager(staged()).apply(model, optimizer, total_steps=STEPS)
    train(model, optimizer, manager, range(6))
    return snapshot(model, optimizer, manager)


def test_a_changed_recipe_is_refused_with_a_diff(saved: dict[str, Any]) -> None:
    from sparsify import Recipe

    other = Recipe.parse(STAGED.replace("to: 0.8", "to: 0.9").replace("every: 2", "every: 1"))
    with pytest.raises(StateError) as error:
        resumed(saved, other)
    for line in ('-       "to": 0.8', '+       "to": 0.9', '-       "every": "2 steps"', '+       "every": "1 step"'):
        assert line.replace(" ", "") in str(error.value).replace(" ", "")
    model, optimizer = build()
    manager = Manager(other).apply(model, optimizer, total_steps=STEPS)
    model.load_state_dict(saved["model"])
    manager.load_state_dict(saved["manager"], allow_changed_recipe=True)
    assert manager.step == 6
    train(model, optimizer, manager, range(6, STEPS))
    assert manager.finalize().targeted.sparsity == pytest.approx(0.9, abs=0.01)


def test_a_recipe_that_only_reads_differently_is_the_same(saved: dict[str, Any]) -> None:
    from sparsify import Recipe

    assert resumed(saved, Recipe.parse("# a comment\nname: other\n" + STAGED)).step == 6


def test_another_length_of_training_is_refused(saved: dict[str, Any]) -> None:
    with pytest.raises(StateError, match=r"saved with total_steps=14, apply\(\) was given 20: windows would shift"):
        resumed(saved, total_steps=20)


def test_other_weights_are_refused(saved: dict[str, Any]) -> None:
    model, optimizer = build()
    manager = Manager(staged()).apply(model, optimizer, total_steps=STEPS)
    before = manager.state_dict()
    with pytest.raises(StateError, match="the weights of 0.weight are not those that this state was saved with"):
        manager.load_state_dict(saved["manager"])
    assert manager.state_dict()["clock"] == before["clock"], "nothing has changed"
    manager.load_state_dict(saved["manager"], verify_weights=False)
    assert manager.step == 6


def test_other_shapes_are_refused(saved: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4))
    manager = Manager(staged()).apply(model, torch.optim.SGD(model.parameters(), lr=0.1), total_steps=STEPS)
    with pytest.raises(StateError, match=r"the state's mask for 0.weight is \[32, 16\], the parameter \[64, 16\]"):
        manager.load_state_dict(saved["manager"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, "the state has format 1, this sparsify reads 2"),
        ({"masks": None}, "not a manager's state: it lacks masks"),
    ],
)
def test_states_that_are_none(saved: dict[str, Any], change: dict[str, Any], message: str) -> None:
    state = {k: v for k, v in {**saved["manager"], **change}.items() if v is not None}
    with pytest.raises(StateError, match=message):
        resumed({**saved, "manager": state})


def test_a_state_in_the_middle_of_a_step_ends_the_step() -> None:
    """As after an exception: what did not happen is undone, what happened is completed."""
    model, optimizer = build()
    manager = Manager(staged()).apply(model, optimizer, total_steps=STEPS)
    before = manager.state_dict()
    manager.on_step_begin()
    model(torch.randn(2, 16)).sum().backward()
    manager.on_before_optimizer_step()
    assert manager.state_dict()["clock"] == before["clock"]
    with pytest.raises(HookError, match=r"on_before_optimizer_step\(\) outside a step"):
        manager.on_before_optimizer_step()
    manager.on_step_begin()
    manager.on_before_optimizer_step()
    optimizer.step()
    assert manager.state_dict()["clock"]["step"] == manager.step == 1


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 1000])
def test_masks_are_packed_eight_to_a_byte(length: int) -> None:
    mask = torch.rand(length) > 0.5
    packed = pack(mask)
    assert packed.numel() == -(-length // 8)
    assert torch.equal(unpack(packed, (length,)), mask)


def test_fingerprints_notice_changes() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        tensor = torch.randn(100, 80).to(dtype)
        same = fingerprint(tensor)
        assert fingerprint(tensor.t().contiguous().t()) == same
        for change in (lambda t: t[3, 4].mul_(2), lambda t: t[0, :2].copy_(t[0, :2].flip(0))):
            other = tensor.clone()
            change(other)
            assert fingerprint(other) != same


# ---------------------------------------------------------------- checkpoints


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path / "deep" / "state.pt", model={"w": torch.randn(100)})
    whole = path.read_bytes()
    for damaged in (b"", b"nonsense", whole[: len(whole) // 2], b"\0" * 100):
        path.write_bytes(damaged)
        with pytest.raises(StateError, match=r"state\.pt is not a whole checkpoint"):
            checkpoint.load(path)
    with pytest.raises(StateError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "none.pt")
    torch.save([1, 2], path)
    with pytest.raises(StateError, match="it holds a list"):
        checkpoint.load(path)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (os.system, (f"touch {tmp_path}/hacked",))

    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(StateError, match="is not a whole checkpoint"):
        checkpoint.load(tmp_path / "evil.pt")
    assert not (tmp_path / "hacked").exists()


def test_a_failing_write_leaves_the_previous_one(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path / "state.pt", step=1)

    def fail(file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(StateError, match="cannot be written: No space left on device"):
        checkpoint.write_whole(path, fail)
    assert checkpoint.load(path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be written"):
        checkpoint.save(tmp_path / "file" / "state.pt", step=1)


def test_kill_9_while_a_checkpoint_is_written_leaves_a_usable_one(tmp_path: Path) -> None:
    script = """
import sys, torch
from sparsify import checkpoint
step = 0
while True:
    checkpoint.save(sys.argv[1], step=step, filler=torch.full((500_000,), float(step)))
    step += 1
    print(step, flush=True)
"""
    path = tmp_path / "state.pt"
    chance = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        done = int(process.stdout.readline())
        time.sleep(chance.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        done = int((process.stdout.read().split() or [done])[-1])
        process.stdout.close()
        process.wait()
        saved = checkpoint.load(path)
        assert saved["step"] >= done - 1
        assert bool((saved["filler"] == saved["step"]).all())


def test_zeros_survive_a_round_trip_of_the_model(saved: dict[str, Any]) -> None:
    model, _ = build()
    model.load_state_dict(saved["model"])
    assert zeros(model, "0.weight") > 100


@pytest.mark.parametrize("masking", ["project", "latent"])
def test_a_last_update_whose_time_is_over_under_a_changed_recipe_is_made_at_once(masking: str, mlp: nn.Module) -> None:
    from tests.loop import adamw, recipe

    optimizer = adamw(mlp)
    manager = Manager(recipe(window="{begin: 2, end: 12}", masking=masking))
    manager.apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(8))
    state = manager.state_dict()
    manager = Manager(recipe(window="{begin: 2, end: 6}", masking=masking, sparsity="0.8"))
    manager.apply(mlp, optimizer, total_steps=STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        manager.load_state_dict(state, allow_changed_recipe=True)
    train(mlp, optimizer, manager, range(8, 9))
    assert manager.sparsity == pytest.approx(0.8, abs=0.01)
    manager.finalize()
