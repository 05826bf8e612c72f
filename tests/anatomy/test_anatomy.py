"""Architectures by role: what is found in each, and that models run with heads and neurons pruned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import Manager, Plan, PlanError, Recipe, RecipeError
from sparsify.anatomy import Anatomy, read
from sparsify.anatomy.parts import ROLES
from sparsify.layers import all_weights
from sparsify.targets import Targets
from tests.loop import recipe
from tests.models import MODELS, build

EXPECTED: dict[str, dict[str, Any]] = {
    "bert": {"layers": 2, "heads": (2, 2), "attention": 4, "ffn": 2, "head": ["bert.pooler.dense", "classifier"]},
    "roberta": {"layers": 2, "heads": (2, 2), "attention": 4, "ffn": 2, "head": ["classifier.dense", "classifier.out_proj"]},
    "distilbert": {"layers": 2, "heads": (2, 2), "attention": 4, "ffn": 2, "head": ["pre_classifier", "classifier"]},
    "vit": {"layers": 2, "heads": (2, 2), "attention": 4, "ffn": 2, "head": ["classifier"]},
    "gpt2": {"layers": 2, "heads": (2, 2), "attention": 4, "ffn": 2, "head": ["lm_head"]},
    "llama": {"layers": 2, "heads": (4, 2), "attention": 4, "ffn": 3, "head": ["lm_head"]},
    "t5": {"layers": 4, "heads": (2, 2), "attention": 4, "ffn": 2, "head": ["lm_head"]},
    "t5-gated": {"layers": 4, "heads": (2, 2), "attention": 4, "ffn": 3, "head": ["lm_head"]},
    "bart": {"layers": 4, "heads": (2, 2), "attention": 4, "ffn": 2, "head": ["lm_head"]},
    "mobilebert": {"layers": 2, "heads": (2, 2), "attention": 4, "ffn": 2, "head": ["mobilebert.pooler.dense", "classifier"]},
    "albert": {"layers": 1, "heads": (2, 2), "attention": 4, "ffn": 2, "head": ["albert.pooler", "classifier"]},
    "modernbert": {"layers": 2, "heads": (2, 2), "attention": 4, "ffn": 3, "head": ["head.dense", "classifier"]},
    "torch": {"layers": 2, "heads": (2, 2), "attention": 4, "ffn": 2, "head": []},
    "resnet": {"layers": 4, "head": ["classifier.1"]},
    "resnet-bottleneck": {"layers": 2, "head": ["classifier.1"]},
    "resnet-by-hand": {"layers": 6, "head": ["classifier"]},
}  # fmt: skip
TRANSFORMERS = [name for name in EXPECTED if not name.startswith("resnet")]


def anatomy_of(name: str) -> tuple[nn.Module, Anatomy]:
    """Return a small model and its anatomy."""
    model = build(name)
    anatomy = read(model)
    assert anatomy is not None
    return model, anatomy


def short(weights: Any) -> list[str]:
    """Return names without `.weight`."""
    return [weight.name.replace(".weight", "") for weight in weights]


def test_every_model_is_expected() -> None:
    assert set(EXPECTED) == set(MODELS)


@pytest.mark.parametrize("name", EXPECTED)
def test_roles_partition_the_model(name: str) -> None:
    model, anatomy = anatomy_of(name)
    expected = EXPECTED[name]
    assert len(anatomy.layers) == expected["layers"]
    assert short(anatomy.task_head) == expected["head"]
    parts = {role: {id(w.parameter) for w in anatomy.role(role)} for role in ("default", "embeddings", "task_head")}
    every = {id(weight.parameter) for weight in all_weights(model)}
    assert every <= parts["default"] | parts["embeddings"] | parts["task_head"]
    assert not parts["default"] & (parts["embeddings"] | parts["task_head"])
    tables = {id(m.weight) for n, m in model.named_modules() if isinstance(m, nn.Embedding) and "bias" not in n}
    assert tables <= parts["embeddings"]
    inside = [weight for layer in anatomy.layers for _, weight in layer.roles()]
    assert len({weight.name for weight in inside}) == len(inside), "nothing twice"


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_attention_and_ffn_have_their_shapes(name: str) -> None:
    model, anatomy = anatomy_of(name)
    heads, groups = EXPECTED[name]["heads"]
    for block in anatomy.attentions:
        assert (block.heads, block.groups) == (heads, groups)
        assert block.query.geometry.rows == block.output.geometry.columns
        assert block.key.geometry.rows * heads == block.query.geometry.rows * groups
        assert block.key.geometry.rows == block.value.geometry.rows
    for ffn in anatomy.feed_forwards:
        assert ffn.up.geometry.rows == ffn.down.geometry.columns
        assert ffn.gate is None or ffn.gate.geometry == ffn.up.geometry
    assert len(list(anatomy.feed_forwards[0].roles())) == EXPECTED[name]["ffn"]
    assert {layer.index for layer in anatomy.layers} == set(range(min(EXPECTED[name]["layers"], 2)))
    assert not Targets(model, anatomy).problems


@pytest.mark.parametrize(
    ("kind", "like", "more"),
    [
        ("ElectraForSequenceClassification", "bert", {"embedding_size": 16}),
        ("CamembertForSequenceClassification", "roberta", {}),
        ("XLMRobertaForSequenceClassification", "roberta", {}),
        ("DeiTForImageClassification", "vit", {}),
        ("MistralForCausalLM", "llama", {}),
        ("Qwen2ForCausalLM", "llama", {}),
        ("Qwen3ForCausalLM", "llama", {"head_dim": 8}),
        ("GemmaForCausalLM", "llama", {"head_dim": 8}),
        ("Gemma2ForCausalLM", "llama", {"head_dim": 8}),
        ("MT5ForConditionalGeneration", "t5-gated", {}),
        ("MBartForConditionalGeneration", "bart", {}),
    ],
)
def test_relatives_are_known(kind: str, like: str, more: dict[str, Any]) -> None:
    import transformers

    model = getattr(transformers, kind)
    with torch.device("meta"):
        relative = read(model(model.config_class(**MODELS[like].config, **more)))
    known = anatomy_of(like)[1]
    assert relative is not None
    assert len(relative.layers) == len(known.layers)
    for mine, theirs in ((relative.attentions, known.attentions), (relative.feed_forwards, known.feed_forwards)):
        assert [[role for role, _ in block.roles()] for block in mine] == [  # type: ignore[attr-defined]
            [role for role, _ in block.roles()]
            for block in theirs  # type: ignore[attr-defined]
        ]
    assert [block.least for block in relative.attentions] == [block.least for block in known.attentions]
    assert not any("embed" in weight.name for weight in relative.task_head)


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("pattern", ["head", "neuron", "{type: head, grouped: quota}"])
def test_what_is_pruned_has_no_effect(name: str, pattern: str) -> None:
    """A head or neuron that is gone, output columns and all, cannot be seen: its other rows may hold anything."""
    model, _ = anatomy_of(name)
    model.eval()
    fields = {"targets": "", "pattern": pattern, "sparsity": "{to: 0.5, curve: constant}", "window": ""}
    manager = Manager(recipe(**fields)).apply(model, torch.optim.SGD(model.parameters(), lr=0.1))
    plan: Any = manager.plan.modifiers[0]
    masks: Any = {weight.name: manager._masks.of(weight) for weight in plan.masked}
    assert plan.competition.bundles
    for bundle in plan.competition.bundles:
        tiles = [part.weight.cube(masks[part.weight.name]) for part in bundle.parts]
        counts = {float(tile.float().mean()) for tile in tiles}
        assert counts == {0.5}, "half of the groups, in every tensor of the bundle"
    inputs = MODELS[name].inputs()
    with torch.no_grad():
        before = output_of(model, inputs)
        for bundle in plan.competition.bundles:
            for weight in (part.weight for part in bundle.parts):
                if role_of(model, weight) not in ("attention.output", "ffn.down"):
                    weight.tensor.add_(torch.randn(weight.shape) * ~masks[weight.name])
        after = output_of(model, inputs)
    assert torch.allclose(before, after, atol=1e-6)


def role_of(model: nn.Module, weight: Any) -> str:
    """Return the role of a weight."""
    anatomy = read(model)
    assert anatomy is not None
    return next((r for layer in anatomy.layers for r, w in layer.roles() if w.name == weight.name), "")


def output_of(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Return a model's first output."""
    found: Any = model(**inputs)
    return found if isinstance(found, Tensor) else found[0]


def planned(name: str, **fields: str) -> Plan:
    """Return a plan for a model; without `targets` unless given."""
    fields = {"targets": "", "sparsity": "0.5"} | fields
    return Plan.of(recipe(**fields), build(name), total_steps=100)


def names(plan: Plan) -> list[str]:
    """Return the tensors of a plan."""
    return [tensor.name for tensor in plan.modifiers[0].tensors]


@pytest.mark.parametrize("name", MODELS)
def test_default_targets_spare_embeddings_and_task_head(name: str) -> None:
    anatomy = anatomy_of(name)[1]
    found = names(planned(name))
    assert found
    assert found == names(planned(name, targets="default"))
    spared = {weight.name for role in ("embeddings", "task_head") for weight in anatomy.role(role)}
    assert not spared & set(found)


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("role", ["attention", "attention.query", "attention.output", "ffn", "ffn.up", "ffn.down"])
def test_roles_are_targets(name: str, role: str) -> None:
    anatomy = anatomy_of(name)[1]
    found = sum(tensor.elements for tensor in planned(name, targets=role).modifiers[0].tensors)
    assert found == sum(weight.geometry.elements for weight in anatomy.role(role)) > 0


def test_fused_matrices_are_cut_only_where_roles_ask() -> None:
    assert "transformer.h.0.attn.c_attn.weight" in names(planned("gpt2", targets="attention"))
    assert names(planned("gpt2", targets="attention.key", layers="0")) == ["transformer.h.0.attn.c_attn.weight[32:64]"]
    assert names(planned("gpt2", targets="attention", exclude="attention.query", layers="1")) == [
        "transformer.h.1.attn.c_attn.weight[32:64]",
        "transformer.h.1.attn.c_attn.weight[64:96]",
        "transformer.h.1.attn.c_proj.weight",
    ]
    assert names(planned("torch", targets="attention.value"))[0].endswith("self_attn.in_proj_weight[64:96]")


def test_a_part_of_a_fused_matrix_is_pruned_alone() -> None:
    model = build("gpt2")
    dense = model.get_parameter("transformer.h.0.attn.c_attn.weight").detach().clone()
    fields = {"targets": "attention.key", "sparsity": "{to: 0.5, curve: constant}", "window": ""}
    manager = Manager(recipe(**fields)).apply(model, torch.optim.SGD(model.parameters(), lr=0.1))
    weight = model.get_parameter("transformer.h.0.attn.c_attn.weight").detach()
    assert torch.equal(weight[:, :32], dense[:, :32])
    assert torch.equal(weight[:, 64:], dense[:, 64:])
    assert int((weight[:, 32:64] == 0).sum()) == 32 * 32 // 2
    copy = build("gpt2")
    manager.project(copy)
    assert torch.equal(copy.get_parameter("transformer.h.0.attn.c_attn.weight") == 0, weight == 0)
    assert manager.finalize().targeted.sparsity == 0.5


def test_two_modifiers_may_share_a_fused_matrix_but_not_its_rows() -> None:
    text = "version: 1\nmodifiers:\n" + "".join(
        f"  - {{type: prune, targets: {target}, sparsity: 0.5}}\n" for target in ("attention.query", "OTHER")
    )
    Plan.of(Recipe.parse(text.replace("OTHER", "attention.key")), build("gpt2"), total_steps=100)
    with pytest.raises(PlanError, match=r"acts on transformer\.h\.0\.attn\.c_attn\.weight and 1 more at the same time"):
        Plan.of(Recipe.parse(text.replace("OTHER", "attention")), build("gpt2"), total_steps=100)


@pytest.mark.parametrize(
    ("layers", "found"),
    [("0", [0]), ("1", [1]), ("0-1", [0, 1]), ("[1]", [1]), ('["0", 1]', [0, 1]), ("0 - 1", [0, 1])],
)
def test_layers_are_counted_in_every_stack(layers: str, found: list[int]) -> None:
    for name in ("bert", "bart"):
        anatomy = anatomy_of(name)[1]
        wanted = [w.name for layer in anatomy.layers if layer.index in found for _, w in layer.roles()]
        assert sorted(names(planned(name, layers=layers))) == sorted(wanted)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("bert", {"targets": "ffn.gate"}, "BertForSequenceClassification has no 'ffn.gate' (it has: default, attention,"),
        ("bert", {"targets": "atention"}, "'atention' matches nothing in BertForSequenceClassification (did you mean 'attention'?)"),
        ("bert", {"layers": "0-5"}, "layers[0]: the model has the layers 0 to 1, got '0-5'"),
        ("bert", {"targets": "classifier", "layers": "0"}, "nothing that is targeted lies in these layers"),
        ("bert", {"pattern": "head", "targets": "attention.query"}, "targeted in part, but a head spans 4 matrices"),
        ("t5", {"pattern": "head", "layers": "0"}, "encoder.block: layer.0.SelfAttention, decoder.block: layer.0.SelfAttention"),
        ("llama", {"pattern": "{type: head, grouped: quota}", "targets": "attention.key"}, "no tensor that belongs to a head is targeted"),
        ("t5", {"pattern": "head", "layers": "0"}, "targeted in part, but a head spans 8 matrices"),
        ("bert", {"pattern": "head", "targets": "ffn"}, "is in no attention block, so it has no heads"),
        ("bert", {"pattern": "filter"}, "is no convolution, so it has no filters"),
        ("bert", {"pattern": "channel"}, "is no convolution, so it has no channels"),
        ("resnet", {"pattern": "head"}, "ResNetForImageClassification has no 'attention'"),
        ("gpt2", {"pattern": "head", "sparsity": "0.9"}, "transformer.h.0.attn: at most 0.5 can be pruned, got 0.9"),
        ("gpt2", {"pattern": "head", "sparsity": "0.9", "scope": "global"}, "and 1 more: at most 0.5 can be pruned"),
        ("bert", {"pattern": "{type: block, shape: [5, 3], ragged: pad}", "scope": "row"}, "all groups must be of one size"),
        ("bert", {"scope": "{type: global, ceiling: 0.4}"}, "the scope allows a sparsity of at most 0.4, got 0.5"),
        ("bert", {"scope": "{type: erk, floor: 0.9, ceiling: 0.5}"}, "the floor 0.9 is above the ceiling"),
        ("bert", {"scope": "row", "pattern": "neuron"}, "the scope 'row' ranks what is inside a row; a neuron is not"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(name: str, fields: dict[str, str], message: str) -> None:
    with pytest.raises((PlanError, RecipeError)) as error:
        planned(name, **fields)
    assert message in str(error.value)


class Recurrent(nn.Module):
    """Tokens, an LSTM, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.lstm, self.out = nn.Embedding(9, 4), nn.LSTM(4, 6), nn.Linear(6, 2)


class Twice(nn.Module):
    """Two heads on one body, defined first."""

    def __init__(self) -> None:
        super().__init__()
        self.policy_head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        self.value_head = nn.Linear(8, 1)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8))


class Tied(nn.Module):
    """A table that is the output layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.mix, self.out = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9, bias=False)
        self.out.weight = self.tokens.weight


@pytest.mark.parametrize(
    ("model", "default", "head", "embeddings"),
    [
        (nn.Linear(4, 3), [""], [], []),
        (
            Recurrent(),
            ["lstm_ih_l0", "lstm_hh_l0"],
            ["out"],
            ["tokens"],
        ),
        (Twice(), ["policy_head.0", "body.0", "body.2"], ["policy_head.2", "value_head"], []),
        (Tied(), ["mix"], ["out"], ["out"]),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)), ["0"], ["3"], []),
    ],
)
def test_roles_where_nothing_repeats(model: nn.Module, default: Any, head: Any, embeddings: Any) -> None:
    anatomy = read(model)
    assert anatomy is not None
    found = [short(anatomy.role(role)) for role in ("default", "task_head", "embeddings")]
    assert [[name.removeprefix("weight") for name in each] for each in found] == [default, head, embeddings]


def test_unknown_models_work_by_name_and_type_and_say_so_otherwise() -> None:
    unknown = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    anatomy = read(unknown)
    assert anatomy is not None
    assert (anatomy.layers, anatomy.roles(), short(anatomy.task_head)) == ((), ["default", "task_head"], ["1"])
    for fields, message in (
        ({"targets": "ffn"}, "Sequential has no 'ffn' (it has: default, task_head)"),
        ({"layers": "0"}, "nothing repeats in Sequential, so it has no layers"),
        (
            {"scope": "{type: global, within: role}"},
            "within: role needs a model with layers: nothing repeats in this one",
        ),
        ({"pattern": "head"}, "the pattern 'head' needs a model with layers: nothing repeats in this one"),
    ):
        with pytest.raises(PlanError) as error:
            Plan.of(recipe(**fields), unknown, total_steps=100)  # type: ignore[arg-type]
        assert message in str(error.value)
    named = nn.ModuleDict({"attention": nn.Linear(8, 8), "ffn": nn.Linear(8, 8)})
    assert [t.name for t in Plan.of(recipe(targets="ffn"), named, total_steps=99).modifiers[0].tensors] == [
        "ffn.weight"
    ]


def test_a_known_encoder_in_a_model_of_one_s_own() -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scorer = nn.Linear(32, 1)
            self.encoder = build("bert").bert

    anatomy = read(Mine())
    assert anatomy is not None
    assert short(anatomy.task_head) == ["scorer", "encoder.pooler.dense"]


def test_a_single_layer_is_a_model_too() -> None:
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
    plan = Plan.of(recipe(targets="attention.key"), layer, total_steps=99)
    assert names(plan) == ["self_attn.in_proj_weight[32:64]"]
    assert not read(layer).task_head  # type: ignore[union-attr]


def test_a_class_of_the_same_name_but_another_make_is_not_of_the_family() -> None:
    class BertSelfAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    class BertLayer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.ModuleDict({"self": BertSelfAttention()})
            self.attention["output"] = nn.ModuleDict({"dense": nn.Linear(8, 8)})

    found = read(nn.Sequential(BertLayer()))
    assert found is not None
    assert found.inferred == ("BertLayer",)
    assert not found.attentions, "it does not say how large a head is"

    class TransformerBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixer = nn.Linear(8, 8)

    assert read(nn.Sequential(TransformerBlock())).layers == ()  # type: ignore[union-attr]


def test_heads_of_t5_are_the_same_in_every_layer() -> None:
    plan = planned("t5", pattern="head")
    bundles = plan.modifiers[0].competition.bundles  # type: ignore[attr-defined]
    assert [bundle.name for bundle in bundles] == [
        "encoder.block: layer.0.SelfAttention",
        "decoder.block: layer.0.SelfAttention",
        "decoder.block: layer.1.EncDecAttention",
    ]
    assert all(bundle.count == 2 and len(bundle.parts) == 8 for bundle in bundles)


def test_the_plan_shows_blocks_and_their_groups() -> None:
    text = planned("llama", pattern="neuron").text(tensors=True)
    assert "model.layers.0.mlp  64 in 3 tensors" in text
    assert "2 blocks" in text
    *_, total, closing = str(planned("bert", scope="erk", sparsity="0.8")).splitlines()
    assert "73.33%" not in total
    assert "80.0" in total
    assert closing == "the recipe covers 100 % of the 16,384 matrix weights"


def test_coarse_groups_are_noted() -> None:
    coarse, afterwards = planned("bert", pattern="head", sparsity="0.4").notes
    assert coarse == "prune: 40.00% was asked for, but whole groups can only give 50.00%"
    assert planned("bert", pattern="head", sparsity="0.5").notes == (afterwards,)
    assert afterwards.startswith("sparsify compact takes the dead heads out afterwards")


def test_grouped_queries_lose_whole_groups_or_a_quota() -> None:
    for grouped, tensors in (("whole", 4), ("quota", 2)):
        plan = planned("llama", pattern=f"{{type: head, grouped: {grouped}}}")
        bundle = plan.modifiers[0].competition.bundles[0]  # type: ignore[attr-defined]
        assert (bundle.count, len(bundle.parts)) == (2, tensors)


@pytest.mark.parametrize("scope", ["global", "erk"])
def test_a_scope_within_roles_ranks_them_apart(scope: str) -> None:
    model = build("bert")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "attention" in name:
                parameter.mul_(100)
    fields = {
        "targets": "",
        "scope": f"{{type: {scope}, within: role}}",
        "sparsity": "{to: 0.5, curve: constant}",
        "window": "",
    }
    Manager(recipe(**fields)).apply(model, torch.optim.SGD(model.parameters(), lr=0.1))
    anatomy = read(model)
    assert anatomy is not None
    for role in ("attention", "ffn"):
        weights = anatomy.role(role)
        zeros = sum(int((weight.tensor == 0).sum()) for weight in weights)
        assert zeros == pytest.approx(0.5 * sum(weight.geometry.elements for weight in weights), abs=len(weights))


def test_roles_are_in_the_documents_order() -> None:
    assert ROLES[0] == "default"
    assert anatomy_of("bert")[1].roles() == [
        role for role in ROLES if role not in ("ffn.gate", "experts", "router", "conv", "shortcut")
    ]
