"""Dead experts leave; routers stay, whatever they compute, and every token gets what it got."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sparsify import PlanError, StateError, compact, load, save
from sparsify.absent_experts import Kept, kept
from sparsify.anatomy import Experts, read
from sparsify.compaction import compacted
from sparsify.widths import FILE
from tests.commands import ENVIRONMENT
from tests.compaction.dead import empty_rows
from tests.majors import OLD

pytestmark = pytest.mark.skipif(OLD, reason="experts share their parameters in transformers 5")

IDS = torch.randint(3, 40, (3, 17), generator=torch.Generator().manual_seed(0))
SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 40, "max_position_embeddings": 32, "bos_token_id": 0, "eos_token_id": 1,
    "pad_token_id": 0,
}  # fmt: skip
LATENT: dict[str, Any] = {
    **SIZES, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 8, "num_experts_per_tok": 2,
    "moe_intermediate_size": 24, "n_shared_experts": 1, "first_k_dense_replace": 1,
}  # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "renormalised": ("Mixtral", {**SIZES, "num_local_experts": 8, "num_experts_per_tok": 2}),
    "softmax over the chosen, biases": (
        "GptOss",
        {**SIZES, "head_dim": 8, "num_local_experts": 8, "num_experts_per_tok": 2,
         "layer_types": ["full_attention"] * 2},
    ),
    "softmax over all, a shared expert": (
        "Qwen2Moe",
        {**SIZES, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
         "shared_expert_intermediate_size": 24},
    ),
    "softmax over all, scaled": (
        "DeepseekV2", {**LATENT, "topk_method": "greedy", "n_group": None, "topk_group": None}
    ),
    "sigmoid, in groups": ("DeepseekV3", {**LATENT, "n_group": 2, "topk_group": 1}),
}  # fmt: skip


def made(name: str, seed: int = 0) -> Any:
    """Return a model with experts, its matrices random enough that routers choose."""
    import transformers

    kind, config = MODELS[name]
    torch.manual_seed(seed)
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**config))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    return model.eval()


def experts_of(model: nn.Module) -> list[Experts]:
    """Return the experts of every layer that has some."""
    anatomy = read(model)
    assert anatomy is not None
    return anatomy.experts


@torch.no_grad()
def kill(model: nn.Module, *numbers: list[int]) -> None:
    """Let experts die, by layer, as the pattern `expert` has them."""
    for experts, mine in zip(experts_of(model), numbers, strict=False):
        for number in mine:
            for _, weight in experts.members[number].roles():
                empty_rows(weight, torch.arange(weight.geometry.rows))


@pytest.mark.parametrize("name", MODELS)
def test_dead_experts_leave_and_routers_stay(name: str, tmp_path: Path) -> None:
    model = made(name)
    before = experts_of(model)
    gone = [[1, 3, 6], [0, 2]][: len(before)]
    kill(model, *gone)
    found = compacted(model)
    small: Any = found.model
    assert len(found.experts) == sum(map(len, gone))
    assert found.loading.how == "sparsify"
    assert "routers" in found.loading.why
    one = sum(weight.geometry.elements + _bias(weight) for _, weight in before[0].members[0].roles())
    assert found.parameters[0] - found.parameters[1] == one * sum(map(len, gone))
    after = experts_of(small)
    assert [experts.count for experts in after] == [8 - len(each) for each in gone]
    for old, new in zip(before, after, strict=True):
        assert new.least == 2
        assert [torch.equal(a.tensor, b.tensor) for a, b in zip(old.routers, new.routers, strict=True)] == [True] * len(
            old.routers
        )
    wanted = model(input_ids=IDS).logits
    _same(small(input_ids=IDS).logits, wanted)
    for way in ("eager", "batched_mm", "grouped_mm"):
        small.set_experts_implementation(way)
        _same(small(input_ids=IDS).logits, wanted)
    folder = save(small, tmp_path / "small")
    again = load(folder)
    for other in (again, copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert all(torch.equal(tensor, other.state_dict()[key]) for key, tensor in small.state_dict().items())
        _same(other(input_ids=IDS).logits, wanted)  # where weights lie in memory may decide the last bit
    with pytest.raises(Exception, match="mismatch"):  # stock transformers
        type(model).from_pretrained(folder)
    if name != "renormalised":
        return
    save(again, tmp_path / "again")
    assert (tmp_path / "again" / FILE).read_text() == (folder / FILE).read_text()
    generated = [each.generate(IDS[:1, :4], max_new_tokens=6, do_sample=False) for each in (model, again)]
    assert torch.equal(*generated)


def _bias(weight: Any) -> int:
    bias = weight.bias()
    return 0 if bias is None else bias.geometry.elements


def _same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert (found - wanted).abs().max().item() <= 1e-5 * wanted.abs().max().item()


def test_places_are_looked_up_in_one_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = made("renormalised")
    kill(model, [1, 3], [5])
    small: Any = compact(model)
    made_, places = [0], Kept.places

    def counted(self: Kept) -> list[int]:
        made_[0] += 1
        return places(self)

    fresh = load(save(small, tmp_path / "small"))
    monkeypatch.setattr(Kept, "places", counted)
    with torch.inference_mode():
        wanted = fresh(input_ids=IDS).logits.clone()
    fresh(input_ids=IDS, labels=IDS).loss.backward()  # also after an inference
    assert made_ == [2]
    for other in (copy.deepcopy(fresh), pickle.loads(pickle.dumps(fresh))):
        _same(other(input_ids=IDS).logits, wanted)
        kill(other, [0], [])
        _same(compact(other)(input_ids=IDS).logits, other(input_ids=IDS).logits)  # the table is that of fewer
    made_[0] = 0
    fresh.set_experts_implementation("batched_mm")
    fresh.to("meta")(input_ids=IDS.to("meta"))
    assert made_ == [2]
    fresh = load(tmp_path / "small")
    fresh.set_experts_implementation("batched_mm")
    compiled = torch.compile(fresh, backend="aot_eager", fullgraph=True)
    _same(compiled(input_ids=IDS).logits, wanted)
    exported = torch.export.export(fresh, (), {"input_ids": IDS, "use_cache": False})
    _same(exported.module()(input_ids=IDS, use_cache=False).logits, wanted)
    assert fresh.state_dict().keys() == small.state_dict().keys()


def test_training_goes_on_and_routers_are_no_targets() -> None:
    model = made("renormalised")
    kill(model, [1, 3], [5])
    small: Any = compact(model)
    gradients = []
    for each in (model, small):
        each.set_experts_implementation("eager")
        each(input_ids=IDS, labels=IDS).loss.backward()
        gradients.append(each.model.layers[0].mlp.gate.weight.grad)
    _same(gradients[1], gradients[0])
    anatomy = read(small)
    assert anatomy is not None
    assert len(anatomy.role("router")) == 2
    assert not {weight.name for weight in anatomy.role("default")} & {weight.name for weight in anatomy.role("router")}
    kill(small, [0], [])  # another one dies: expert 0 of those that are left, number 0 of the router's
    with torch.no_grad():
        smallest: Any = compact(small)
    assert kept(smallest.model.layers[0].mlp.experts) == Kept(8, (2, 4, 5, 6, 7))
    kill(model, [0, 1, 3], [5])
    _same(smallest(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_what_is_not_dead_stays() -> None:
    model = made("softmax over the chosen, biases")
    kill(model, [1], [1])
    with torch.no_grad():
        model.model.layers[0].mlp.experts.down_proj_bias[1] = 0.5  # it hands on a constant
    found = compacted(model)
    assert found.experts == ("model.layers.1.mlp.experts.1",)
    kill(model, list(range(8)), [])
    found = compacted(model)
    assert len(found.experts) == 8
    assert any("cannot do without any expert" in note for note in found.notes)
    assert experts_of(found.model)[0].count == 1
    _same(found.model(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_neurons_of_the_experts_that_are_left_die_too() -> None:
    model = made("renormalised")
    kill(model, [1], [])
    with torch.no_grad():
        for experts in experts_of(model):
            for member in experts.members:
                for _, weight in list(member.roles())[:2]:
                    empty_rows(weight, torch.arange(8))
    found = compacted(model)
    assert {width.after for width in found.widths if width.kind == "neurons"} == {16}
    assert len(found.experts) == 1
    assert not found.notes
    _same(found.model(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_a_layer_that_runs_all_experts_keeps_them() -> None:
    from transformers import Llama4ForCausalLM, Llama4TextConfig

    torch.manual_seed(0)
    more = {"head_dim": 8, "intermediate_size_mlp": 24, "num_local_experts": 4, "num_experts_per_tok": 1}
    model = Llama4ForCausalLM(Llama4TextConfig(**SIZES, **more, interleave_moe_layer_step=1)).eval()
    kill(model, [1], [2])
    found = compacted(model)
    assert not found.experts
    assert sum("is not told which of them" in note for note in found.notes) == 2


def test_from_a_recipe_to_a_smaller_model() -> None:
    from sparsify import Manager, Recipe

    model = made("renormalised")
    text = (
        "version: 1\nname: experts\nmodifiers:\n  - {type: prune, targets: experts, pattern: expert, sparsity: 0.5}\n"
    )
    manager = Manager(Recipe.parse(text))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    manager.apply(model, optimizer, total_steps=3)
    for _ in range(3):
        manager.on_step_begin()
        manager.on_loss(model(input_ids=IDS, labels=IDS).loss).backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        optimizer.zero_grad()
        manager.on_step_end()
    manager.finalize()
    found = compacted(model)
    assert len(found.experts) == 8
    _same(found.model(input_ids=IDS).logits, model(input_ids=IDS).logits)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda left: {**left, "of": 10**15}, "has no .* experts"),
        (lambda left: {**left, "kept": [7, 0]}, "no experts of it"),
        (lambda left: {**left, "kept": [0, 8]}, "no experts of it"),
        (lambda left: {**left, "kept": []}, "no experts of it"),
        (lambda left: {**left, "kept": "all"}, "a list of sizes"),
    ],
)
def test_files_that_lie(change: Callable[[Any], Any], reason: str, tmp_path: Path) -> None:
    model = made("renormalised")
    kill(model, [1], [1])
    folder = save(compact(model), tmp_path / "small")
    data = json.loads((folder / FILE).read_text())
    path = next(iter(data["experts"]))
    data["experts"][path] = change(data["experts"][path])
    (folder / FILE).write_text(json.dumps(data))
    with pytest.raises((StateError, PlanError), match=reason):
        load(folder)


def test_the_loader_of_the_documentation_knows_of_experts(tmp_path: Path) -> None:
    import re

    page = (Path(__file__).parents[2] / "docs" / "compact.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def load_small" in block)
    model = made("renormalised")
    kill(model, [1, 3], [5])
    small = compact(model)
    folder = save(small, tmp_path / "small")
    torch.save({"ids": IDS, "wanted": small(input_ids=IDS).logits.detach()}, tmp_path / "wanted.pt")
    program = code[: code.index("\n\n\nassert")] + (
        "\n\nimport sys\nfound = load_small(sys.argv[1], transformers.MixtralForCausalLM)\n"
        "given = torch.load(sys.argv[2])\n"
        "torch.testing.assert_close(found(input_ids=given['ids']).logits, given['wanted'], rtol=1e-5, atol=1e-5)\n"
        "assert not any(name.startswith('sparsify') for name in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder), str(tmp_path / "wanted.pt")],
        capture_output=True, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
