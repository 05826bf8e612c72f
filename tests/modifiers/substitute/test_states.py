"""What is measured on the way to NoNorm, and what a saved state brings back of it."""

from __future__ import annotations

import pytest
import torch

from sparsify.substitutes import NoNorm
from tests.modifiers.substitute.training import BEGIN, END, STEPS, Training

RESUMED = [
    *((name, stop) for name in ("bert", "llama") for stop in range(1, STEPS)),
    *((name, stop) for name in ("gpt2", "t5-gated", "vit") for stop in (BEGIN, END - 1, END)),
]


@pytest.mark.parametrize(("name", "stop"), RESUMED)
def test_a_resume_ends_with_the_same_bits(name: str, stop: int) -> None:
    one = Training(name).train(stop)
    saved = one.states()
    seen = one.output()
    one.train()
    other = Training(name).load(saved)
    assert torch.equal(other.output(), seen)
    other.train()
    for (key, mine), theirs in zip(one.model.state_dict().items(), other.model.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), key
    back = one.load(saved)  # in the model that has finished
    assert torch.equal(back.output(), seen)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_what_is_measured_is_an_average_of_tokens(name: str) -> None:
    run = Training(name).train(BEGIN)
    path = run.manager.plan.changes["substitute"].norms[-1]  # type: ignore[attr-defined]
    inputs: list[torch.Tensor] = []
    module = run.model.get_submodule(path)
    module.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0].detach()))
    run.train(END - 1)
    wanted = torch.zeros(3, dtype=torch.float64)
    assert len(inputs) == END - 1 - BEGIN
    for step, x in enumerate(inputs, BEGIN):
        tokens = x.double().reshape(-1, x.shape[-1])
        mean = tokens.mean(1) if module.kind == "layer" else torch.zeros(len(tokens), dtype=torch.float64)
        square = (tokens - mean[:, None]).square().mean(1)
        decay = 0.99 + 0.01 * (step - BEGIN) / (END - BEGIN)
        wanted = decay * wanted + (1 - decay) * torch.stack((mean.mean(), square.mean(), torch.ones_like(mean[0])))
    found = run.manager._runs[0].averages[-1]  # type: ignore[attr-defined]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-9)


def test_accumulation_evaluation_and_skipped_steps_do_not_disturb_what_is_measured() -> None:
    run, other = Training(), Training()
    run.train(3)
    while other.manager.step < 3:
        other.output()
        other.manager.on_step_begin()
        other.output()
        other.model(**other.inputs)  # the same tokens twice: the same mean
        other.optimizer.zero_grad()
        next(iter(other.model(**other.inputs).values())).square().mean().backward()
        other.manager.on_before_optimizer_step()
        other.optimizer.step()
        other.manager.on_step_end()
    one, two = (each.manager._runs[0].averages for each in (run, other))  # type: ignore[attr-defined]
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)


def test_a_broken_step_leaves_nothing() -> None:
    run = Training().train(3)
    before = run.manager._runs[0].averages.clone()  # type: ignore[attr-defined]
    run.manager.on_step_begin()
    run.model(**run.inputs)
    run.manager.detach()
    assert torch.equal(run.manager._runs[0].averages, before)  # type: ignore[attr-defined]
    assert not any(m.gathers for m in run.model.modules() if isinstance(m, NoNorm))
    assert torch.isfinite(run.output()).all()
