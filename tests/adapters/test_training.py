"""Pruning under adapters: what is targeted, what is refused, loops, resumed ones too."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from sparsify import HookError, Manager, Plan, PlanError, StateError
from sparsify.anatomy import read
from tests.adapted import HALF, STEPS, TOKENS, adamw, logits, lora, peft, qwen3, recipe, step, trained
from tests.loop import adamw as every

pytestmark = [pytest.mark.usefixtures("quiet_libraries"), pytest.mark.filterwarnings("default")]


def targets(model: nn.Module, selector: str) -> set[str]:
    plan = Plan.of(recipe(f"type: prune, sparsity: 0.5, targets: {selector!r}"), model, total_steps=99)
    return {weight.name.removeprefix("base_model.model.model.") for weight in plan.targeted()}


def test_adapters_are_meant_only_where_a_selector_names_them() -> None:
    model = lora(qwen3())
    for selector in ("*", "type:Linear", "*.layers.*", "re:.*layers.*"):
        assert not any("lora" in name for name in targets(model, selector)), selector
    query = "layers.0.self_attn.q_proj"
    assert targets(model, "*layers.0.*.q_proj") == {f"{query}.base_layer.weight"}
    for selector in (
        "*layers.0.*.q_proj.lora_B.default",
        "*layers.0.*.q_proj.lora_B*",
        "re:.*layers[.]0[.].*q_proj.lora_B.*",
    ):
        assert targets(model, selector) == {f"{query}.lora_B.default.weight"}, selector
    with pytest.raises(PlanError, match="'\\*.default' matches only adapters, which must be named"):
        targets(model, "*.default")
    frozen = trained(model, "type: freeze, targets: '*'").plan.modifiers[0]
    assert any("lora" in weight.name for weight in frozen.touches), "whatever is trained can be frozen"


@pytest.mark.parametrize("config", ["LoHaConfig", "LoKrConfig", "OFTConfig", "BOFTConfig", "VeraConfig"])
def test_adapters_of_other_kinds_are_no_targets_either(config: str) -> None:
    fields = {"OFTConfig": {"oft_block_size": 8}}.get(config, {})
    model = peft.get_peft_model(qwen3(), getattr(peft, config)(target_modules=["q_proj"], **fields))
    wanted = {weight.name for weight in read(qwen3()).role("default")}  # type: ignore[union-attr]
    plan = Plan.of(recipe("type: prune, sparsity: 0.5"), model, total_steps=99)
    names = {w.name.removeprefix("base_model.model.").replace("base_layer.", "") for w in plan.targeted()}
    assert names == wanted
    assert plan.coverage is not None
    assert plan.coverage.share == 1


def test_a_copy_that_is_trained_in_place_of_a_layer_is_the_layer() -> None:
    anatomy = read(lora(qwen3(), modules_to_save=["down_proj"]))
    assert anatomy is not None
    assert [block.down.name.split("mlp.")[1] for block in anatomy.feed_forwards] == [
        "down_proj.modules_to_save.default.weight"
    ] * 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("type: prune, criterion: movement, sparsity: 0.5", "frozen, so its scores cannot be learned; `criterion: mag"),
        ("type: prune, criterion: soft-movement, sparsity: 0.5", "frozen, so its scores cannot be learned"),
        ("type: prune, criterion: hard-concrete, sparsity: 0.5", "frozen, so its scores cannot be learned"),
        ("type: prune, masking: admm, sparsity: 0.5", "frozen, so nothing can pull it"),
        ("type: regrow, sparsity: 0.5, window: {begin: 1, end: 9, every: 1 step}", "frozen, so that nothing can grow"),
        ("type: penalty, strength: 0.1", "frozen, so that a penalty does nothing to it"),
    ],
)
def test_what_must_learn_is_refused_on_a_frozen_base(text: str, why: str) -> None:
    with pytest.raises(PlanError, match=why):
        Plan.of(recipe(text), lora(qwen3()), total_steps=99)


def test_nothing_is_filled_in_a_frozen_base() -> None:
    text = "version: 1\nmodifiers:\n  - {type: prune, sparsity: 0.5, window: {end: 9}}\n  - {type: fill, begin: 12}\n"
    with pytest.raises(PlanError, match="is frozen, so that nothing can grow back in it"):
        Plan.of(recipe().parse(text), lora(qwen3()), total_steps=99)


@pytest.mark.parametrize(
    "keeps", ["criterion: existing", "sparsity: {from: existing, to: 0.9}, window: {begin: 0, end: 3, every: 1 step}"]
)
def test_a_lock_that_would_let_an_adapter_learn_nothing_is_refused(keeps: str) -> None:
    model = lora(qwen3())
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(
        PlanError, match=r"lora_B.default.weight.*and 1 more: all zero before the training, as adapters begin"
    ):
        Manager(recipe(f"type: prune, {keeps}, targets: '*lora_B*'")).apply(model, adamw(model), total_steps=STEPS)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    learned = lora(qwen3(), init_lora_weights=False)
    trained(learned, f"type: prune, {keeps}, targets: '*lora_B*'")
    later = trained(lora(qwen3()), "type: prune, criterion: existing, targets: '*lora_B*', window: {begin: 2}")
    assert later.sparsity < 0.01, "by then it had learned"


def test_a_lock_of_a_layer_that_begins_at_zero_is_noted() -> None:
    model = qwen3()
    nn.init.zeros_(model.model.layers[0].self_attn.o_proj.weight)
    (note,) = trained(model, "type: prune, criterion: existing").plan.notes
    assert note.startswith("model.layers.0.self_attn.o_proj.weight: all zero, trained, and kept at zero")
    frozen = qwen3()
    nn.init.zeros_(frozen.model.layers[0].self_attn.o_proj.weight)
    frozen = lora(frozen, target_modules="all-linear")
    notes = trained(frozen, "type: prune, criterion: existing").plan.notes
    assert not any("kept at zero" in note for note in notes), "its adapter learns"


def loop(model: Any, manager: Manager, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Train; the zeros of the base hold at every step, and are seen by whoever evaluates, with the adapter or without."""
    for _ in range(steps):
        step(model, optimizer, manager)
        masks = {w.parameter_name: w for w in manager.plan.targeted()}
        assert sum(int((w.tensor == 0).sum()) for w in masks.values()) >= int(manager.sparsity * 18_432)
        logits(model)
        with model.disable_adapter():
            logits(model)
        model.train()


@pytest.mark.parametrize("at", [1, 3])
def test_a_loop_is_resumed_from_the_adapter_alone(at: int) -> None:
    """The base is frozen: it is loaded as it was, dense, and the manager's state has the masks."""
    whole = lora(qwen3())
    optimizer = adamw(whole)
    manager = Manager(recipe()).apply(whole, optimizer, total_steps=STEPS)
    loop(whole, manager, optimizer, at)
    saved = {
        "adapter": {k: v.clone() for k, v in peft.get_peft_model_state_dict(whole).items()},
        "optimizer": optimizer.state_dict(),
        "manager": manager.state_dict(),
    }
    saved = copy.deepcopy(saved)
    loop(whole, manager, optimizer, STEPS - at)
    assert manager.finalize().targeted.sparsity == 0.5
    assert all(p.any() for name, p in whole.named_parameters() if "lora_B" in name)

    other = lora(qwen3())
    peft.set_peft_model_state_dict(other, saved["adapter"])
    optimizer = adamw(other)
    manager = Manager(recipe()).apply(other, optimizer, total_steps=STEPS)
    optimizer.load_state_dict(saved["optimizer"])
    manager.load_state_dict(saved["manager"])
    loop(other, manager, optimizer, STEPS - at)
    manager.finalize()
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), other.parameters(), strict=True))

    wrong = lora(qwen3())
    with torch.no_grad():
        wrong.get_parameter("base_model.model.model.layers.1.mlp.down_proj.weight").mul_(1.5)
    manager = Manager(recipe()).apply(wrong, adamw(wrong), total_steps=STEPS)
    with pytest.raises(StateError, match=r"layers.1.mlp.down_proj.weight are not those that this state was saved with"):
        manager.load_state_dict(saved["manager"])
    manager.detach()


def test_adapters_that_come_after_apply() -> None:
    """The layers are still there, under them; an optimizer that was never given to apply is noticed."""
    model = qwen3()
    optimizer = every(model)
    manager = Manager(recipe()).apply(model, optimizer, total_steps=STEPS)
    step(model, optimizer, manager)
    model = lora(model)
    optimizer.add_param_group({"params": [p for p in model.parameters() if p.requires_grad]})
    for _ in range(STEPS - 1):
        step(model, optimizer, manager)
    assert manager.finalize().targeted.sparsity == 0.5
    assert all(p.any() for name, p in model.named_parameters() if "lora_B" in name)


def test_an_optimizer_of_adapters_that_come_after_apply_is_noticed() -> None:
    model = qwen3()
    manager = Manager(recipe()).apply(model, every(model), total_steps=99)
    model = lora(model)
    other = adamw(model)
    for _ in range(7):
        step(model, other, manager)
    with pytest.raises(HookError, match=r"on_step_end\(\) was called without a step of the AdamW given to apply"):
        step(model, other, manager)
    manager.detach()


def test_bfloat16_and_gradient_checkpointing() -> None:
    model = lora(qwen3().bfloat16(), target_modules="all-linear")
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    manager = trained(model)
    assert manager.sparsity == 0.5
    assert all(w.tensor.dtype == torch.bfloat16 for w in manager.plan.targeted())
    assert all(p.any() for name, p in model.named_parameters() if "lora_B" in name)
    assert model(**TOKENS).logits.isfinite().all()


def test_an_adapter_that_is_merged_in_between_and_taken_out_again() -> None:
    model = lora(qwen3())
    optimizer = adamw(model)
    manager = Manager(recipe(HALF)).apply(model, optimizer, total_steps=STEPS)
    for _ in range(STEPS):
        step(model, optimizer, manager)
        model.merge_adapter()
        logits(model)
        model.unmerge_adapter()
        model.train()
    assert manager.finalize().targeted.sparsity == 0.5
