"""What was found broken in the predecessors, about masks, schedules and selection: none of it may come back.

Each test is named after the project and what it got wrong. (Learned scores, penalties and storage have their own.)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import Manager, Plan, PlanError, Recipe, RecipeError, SparsityError
from sparsify.criteria.magnitude import Magnitude
from sparsify.masking import pieces
from sparsify.schedules import Curve
from tests.competing import compete
from tests.loop import STEPS, adamw, loss_of, masks_of, recipe, train, zeros
from tests.models import build

ONE_SHOT = {"window": ""}


def one_shot(model: nn.Module, to: float = 0.5, **fields: str) -> Manager:
    """Prune a model at once."""
    body = {"sparsity": f"{{to: {to}, curve: constant}}", **ONE_SHOT, **fields}
    return Manager(recipe(**body)).apply(model, torch.optim.SGD(model.parameters(), lr=0.1))


# ---------------------------------------------------------------- SparseML, both generations, and LLM Compressor


def test_sparseml_blocks_were_flat_runs() -> None:
    tensor = torch.ones(4, 4)
    tensor[:2, 2:] = 0.1
    mask = compete({"w": tensor}, 0.25, pattern={"type": "block", "shape": [2, 2]})["w"]
    assert mask.tolist() == [[True, True, False, False]] * 2 + [[True] * 4] * 2


def test_sparseml_n_m_masks_of_convolutions_were_permuted() -> None:
    tensor = torch.randn(6, 8, 3, 3)
    mask = compete({"w": tensor}, 0.5, pattern="2:4")["w"]
    assert mask.shape == tensor.shape
    kept = (tensor.abs() * mask).movedim(1, -1).reshape(-1, 4)
    wanted = tensor.abs().movedim(1, -1).reshape(-1, 4).topk(2).values
    assert torch.equal(kept.sort(descending=True).values[:, :2], wanted)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.33, 0.49, 0.5])
def test_sparseml_n_m_had_no_way_between_nothing_and_everything(sparsity: float) -> None:
    mask = compete({"w": torch.randn(10, 40)}, sparsity, pattern="2:4")["w"]
    assert int((~mask).sum()) == round(sparsity * 400)


@pytest.mark.parametrize("pattern", ["{type: block, shape: [4, 4]}", "2:4", "row", "column"])
def test_llm_compressor_had_blocks_and_n_m_that_crashed(pattern: str) -> None:
    model = nn.Sequential(nn.Linear(16, 16))
    assert one_shot(model, pattern=pattern).finalize().targeted.sparsity == 0.5


@pytest.mark.parametrize("pattern", ["filter", "channel"])
def test_llm_compressor_channels_crashed_on_matrices(pattern: str) -> None:
    with pytest.raises(
        PlanError, match=r"0\.weight: is no convolution, so it has no (filters|channels) \(`(row|column)`"
    ):
        one_shot(nn.Sequential(nn.Linear(16, 16)), pattern=pattern)


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "row", "{type: block, shape: [4, 2]}"])
def test_llm_compressor_pruned_all_of_equal_weights(pattern: str) -> None:
    model = nn.Sequential(nn.Linear(16, 16))
    with torch.no_grad():
        model[0].weight.fill_(0.3)
    assert one_shot(model, pattern=pattern).finalize().targeted.nonzeros == 128


@pytest.mark.parametrize("curve", Curve.samples(), ids=lambda curve: curve.label())
def test_llm_compressor_curves_began_above_and_ended_beyond_their_target(curve: Curve) -> None:
    values = [curve.value(step / 100, 0.0, 0.8) for step in range(101)]
    assert all(0 <= value <= 0.8 for value in values)
    assert values == sorted(values)
    assert values[-1] == 0.8
    assert values[0] == (0.8 if curve.jumps else values[0])
    assert curve.value(1.7, 0.0, 0.8) == 0.8, "clamped after the end"
    assert curve.value(-1.0, 0.0, 0.8) == values[0], "clamped before the beginning"


def test_llm_compressor_made_a_mask_every_batch_whatever_update_said(
    mlp: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    score = Magnitude.score
    monkeypatch.setattr(Magnitude, "score", lambda *a: calls.append(step) or score(*a))
    step = 0
    optimizer = adamw(mlp)
    manager = Manager(recipe(window="{begin: 2, end: 10, every: 4}")).apply(mlp, optimizer, total_steps=STEPS)
    for step in range(1, STEPS + 1):
        train(mlp, optimizer, manager, range(step - 1, step))
    assert sorted(set(calls)) == [2, 6, 10]


def test_sparseml_accumulation_ran_the_schedule_faster(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    for step in range(STEPS):
        for micro in range(3):
            manager.on_step_begin()
            loss_of(mlp, 3 * step + micro).backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        optimizer.zero_grad()
        manager.on_step_end()
        assert manager.step == step + 1
    manager.finalize()


def test_sparseml_fell_short_without_a_word(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(5))
    with pytest.raises(SparsityError, match="training ended after 5 steps; the recipe's last update is due at step 10"):
        manager.finalize()


def test_sparseml_could_not_save_the_state_of_stages(mlp: nn.Module) -> None:
    text = (
        "version: 1\nstages:\n"
        '  - {name: one, length: 50%, modifiers: [{type: prune, targets: "0", sparsity: 0.5}]}\n'
        '  - {name: two, modifiers: [{type: prune, targets: "2", sparsity: 0.5}]}\n'
    )
    manager = Manager(Recipe.parse(text)).apply(mlp, adamw(mlp), total_steps=STEPS)
    assert set(manager.state_dict()["modifiers"]) == {"one/prune", "two/prune"}


def test_sparseml_could_not_go_on_from_a_sparse_model() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    one_shot(model, 0.5).finalize()
    sparse = [layer.weight.detach() == 0 for layer in model]
    one_shot(model, 0.75).finalize()
    for layer, before in zip(model, sparse, strict=True):
        assert bool((layer.weight[before] == 0).all()), "what was pruned stays so"
        assert zeros(layer, "weight") == 192


def test_sparseml_matched_a_prefix_of_a_name() -> None:
    with pytest.raises(PlanError, match="matches nothing"):
        Plan.of(recipe(targets='"re:lay"'), nn.ModuleDict({"layer": nn.Linear(4, 4)}), total_steps=99)


# ---------------------------------------------------------------- Neural Compressor, NNCF, ASP, ModelOpt


def test_neural_compressor_counted_the_pruned_as_n() -> None:
    mask = compete({"w": torch.randn(8, 16)}, 0.75, pattern="1:4")["w"]
    assert bool((mask.view(-1, 4).sum(1) == 1).all()), "N is what is kept"


def test_neural_compressor_called_a_convex_curve_cubic() -> None:
    assert Curve.parse("cubic").value(0.5, 0.0, 0.9) == pytest.approx(0.7875)


def test_neural_compressor_capped_a_target_silently() -> None:
    with pytest.raises(RecipeError, match=r"the scope allows a sparsity of at most 0\.98, got 0\.99"):
        recipe(sparsity="0.99", scope="{type: global, ceiling: 0.98}")
    with pytest.raises(RecipeError, match=r"the pattern allows a sparsity of at most 0\.5, got 0\.6"):
        recipe(sparsity="0.6", pattern="2:4")


def test_neural_compressor_never_read_resume_from_pruned(mlp: nn.Module) -> None:
    one_shot(mlp, 0.4, targets='"0"').finalize()
    manager = Manager(recipe(targets='"0"', sparsity="{from: existing, to: 0.8}", window="{begin: 0, end: 8}"))
    manager.apply(mlp, adamw(mlp), total_steps=STEPS)
    assert manager.target == pytest.approx(0.4, abs=0.002)
    assert zeros(mlp, "0.weight") == 205


def test_neural_compressor_made_nothing_of_the_first_update(mlp: nn.Module) -> None:
    fields = {"sparsity": "{from: 0.3, to: 0.75}", "window": "{begin: 0, end: 10, every: 2}"}
    Manager(recipe(**fields)).apply(mlp, adamw(mlp), total_steps=STEPS)
    assert zeros(mlp, "0.weight") == round(0.3 * 512)


def test_nncf_reached_its_target_later_than_asked(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe(window="{begin: 2, end: 9, every: 4}")).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(9))
    assert zeros(mlp, "0.weight") == 384, "at step 9, though 9 is no multiple of 4 from 2"


def test_nncf_sorted_all_weights_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    score = Magnitude.score

    def watched(self: Magnitude, weight: Tensor, place: Any) -> Tensor:
        nonlocal largest
        largest = max(largest, weight.numel())
        return score(self, weight, place)

    monkeypatch.setattr(Magnitude, "score", watched)
    for pattern in ("unstructured", "2:4", "row", "column", {"type": "block", "shape": [4, 4]}):
        tensors = {name: torch.randn(2000, 1000) for name in "ab"}
        compete(tensors, 0.5, pattern=pattern, scope="global")
    assert 0 < largest <= max(pieces.CHUNK["cpu"], 1 << 20) < 2_000_000


def test_asp_could_not_have_long_groups() -> None:
    tensor = torch.randn(64, 64)
    for n, m in ((8, 16), (16, 32), (3, 64)):
        mask = compete({"w": tensor}, 1 - n / m, pattern=f"{n}:{m}")["w"]
        assert bool((mask.view(-1, m).sum(1) == n).all())
        assert float((tensor.abs() * mask).sum()) == pytest.approx(float(tensor.abs().view(-1, m).topk(n).values.sum()))


def test_asp_saved_weights_that_were_not_sparse(mlp: nn.Module, tmp_path: Path) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe(pattern="2:4", sparsity="0.5")).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(STEPS))
    torch.save(mlp.state_dict(), tmp_path / "weights.pt")
    saved = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert bool(((saved["0.weight"] != 0).view(-1, 4).sum(1) == 2).all())
    assert list(saved) == list(nn.Sequential.state_dict(mlp))


@pytest.mark.parametrize("shape", [(12, 8), (7, 12), (100, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_asp_skipped_shapes_and_dtypes_silently(shape: tuple[int, int], dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(shape[1], shape[0], dtype=dtype))
    assert one_shot(model, pattern="2:4").finalize().targeted.sparsity == 0.5
    with pytest.raises(PlanError, match=r"0\.weight: 2:8 does not divide (12|4|10) input features"):
        one_shot(nn.Sequential(nn.Linear({8: 10}.get(shape[1], shape[1]), 8)), 0.75, pattern="2:8")


def test_modelopt_took_zeros_that_were_there_for_its_own() -> None:
    """A kept weight may be zero by chance; the mask's count is exact all the same."""
    model = nn.Sequential(nn.Linear(16, 16))
    with torch.no_grad():
        model[0].weight[:, ::2] = 0
        model[0].weight[:4] = 0
    manager = one_shot(model, 0.5, pattern="2:4")
    (mask,) = masks_of(manager).values()
    assert bool((mask.view(-1, 4).sum(1) == 2).all())


def test_neural_compressor_slimmed_a_head_only_if_four_masks_agreed() -> None:
    model = build("bert")
    manager = one_shot(model, targets="", pattern="head")
    masks = masks_of(manager)
    for layer in range(2):
        at = f"bert.encoder.layer.{layer}.attention"
        rows = [masks[f"{at}.self.{part}.weight"].view(2, -1).float().mean(1) for part in ("query", "key", "value")]
        columns = masks[f"{at}.output.dense.weight"].t().reshape(2, -1).float().mean(1)
        assert all(torch.equal(row, columns) for row in rows)
        assert sorted(columns.tolist()) == [0, 1]


def test_neural_compressor_matched_nothing_and_went_on(mlp: nn.Module) -> None:
    with pytest.raises(PlanError, match="'encoder' matches nothing in Sequential"):
        one_shot(mlp, targets='"encoder"')


def test_neural_compressor_wrote_a_sparsity_of_nothing(mlp: nn.Module, tmp_path: Path) -> None:
    one_shot(mlp).finalize(tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["density"]["targeted"]["sparsity"] == 0.5
    weights = [p for n, p in mlp.named_parameters() if n.endswith("weight")]
    assert report["density"]["targeted"]["nonzeros"] == sum(int((w != 0).sum()) for w in weights)


# ---------------------------------------------------------------- jaxpruner, our own probe, nn_pruning


@pytest.mark.parametrize("pattern", ["2:4", "row", "column", {"type": "block", "shape": [4, 4]}])
def test_jaxpruner_had_no_global_scope_for_patterns(pattern: Any) -> None:
    torch.manual_seed(0)
    tensors = {"a": torch.randn(16, 16), "b": torch.randn(16, 16) * 3}
    masks = compete(tensors, 0.25, pattern=pattern, scope="global")
    pruned = {name: int((~mask).sum()) for name, mask in masks.items()}
    assert sum(pruned.values()) == 128
    assert pruned["a"] > pruned["b"]


def test_a_group_count_is_no_element_budget() -> None:
    """Half of the rows are not half of the weights where rows are of different lengths."""
    tensors = {"short": torch.full((8, 4), 0.1), "long": torch.ones(8, 64)}
    masks = compete(tensors, 0.5, pattern="row", scope="global")
    pruned = sum(int((~mask).sum()) for mask in masks.values())
    assert 272 <= pruned < 272 + 64


@pytest.mark.parametrize(("sparsity", "elements"), [(0.29, 100), (0.57, 100), (0.1, 30)])
def test_nn_pruning_truncated_the_budget(sparsity: float, elements: int) -> None:
    mask = compete({"w": torch.randn(1, elements)}, sparsity)["w"]
    assert int((~mask).sum()) == round(sparsity * elements)


def test_nn_pruning_returned_scores_for_masks_of_non_contiguous_tensors() -> None:
    for tensor in (torch.randn(16, 8).t(), torch.randn(4, 3, 3, 8).permute(0, 3, 1, 2)):
        mask = compete({"w": tensor}, 0.5)["w"]
        assert mask.dtype == torch.bool
        assert int(mask.sum()) == tensor.numel() // 2


def test_nn_pruning_fell_off_a_silent_cliff(mlp: nn.Module) -> None:
    with pytest.raises(PlanError, match="the sparsity would jump"):
        Plan.of(recipe(window="{begin: 50%, end: 51%, every: 10}"), mlp, total_steps=500)


def test_nn_pruning_grouped_two_of_four_along_the_outputs() -> None:
    tensor = torch.arange(1.0, 65).view(8, 8)
    mask = compete({"w": tensor}, 0.5, pattern="2:4")["w"]
    assert mask.tolist() == [[False, False, True, True] * 2] * 8
