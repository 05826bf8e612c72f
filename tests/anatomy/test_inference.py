"""Models of families that nobody has declared: what is found in them, and that it is so."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import Manager, Plan, PlanError
from sparsify.anatomy import Anatomy, AttentionPaths, FeedForwardPaths, read
from sparsify.anatomy.trial import RefutedError, Trial
from sparsify.anatomy.twin import Twin, UnverifiedError
from tests.anatomy.declared import ENDS, GROUPED, IMAGE, TEXT
from tests.loop import recipe
from tests.majors import OLD, of_transformers

SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt-neox": ("GPTNeoXForCausalLM", {**TEXT, **ENDS}),
    "bloom": ("BloomForCausalLM", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 40, **ENDS}),
    "falcon": ("FalconForCausalLM", {k: v for k, v in {**TEXT, **ENDS}.items() if k != "intermediate_size"}),
    "falcon-new": (
        "FalconForCausalLM",
        {**{k: v for k, v in {**TEXT, **ENDS}.items() if k != "intermediate_size"}, "num_kv_heads": 2,
         "new_decoder_architecture": True},
    ),
    "persimmon": ("PersimmonForCausalLM", {**TEXT, **ENDS}),
    "gpt-bigcode": ("GPTBigCodeForCausalLM", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 40, **ENDS}),
    "phi3": ("Phi3ForCausalLM", GROUPED),
    "glm": ("GlmForCausalLM", {**GROUPED, "head_dim": 8}),
    "gemma3": ("Gemma3ForCausalLM", {**GROUPED, "head_dim": 8}),
    "opt": ("OPTForCausalLM", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64,
                               "vocab_size": 40, "word_embed_proj_dim": 32, "max_position_embeddings": 64, **ENDS}),
    "deberta-v2": ("DebertaV2ForSequenceClassification", {**TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"],
                                                          "max_position_embeddings": 64}),
    "mpnet": ("MPNetForSequenceClassification", {**TEXT, **ENDS}),
    "clip": ("CLIPVisionModel", {**IMAGE, "projection_dim": 16}),
    "dinov2": ("Dinov2ForImageClassification", {**IMAGE, "mlp_ratio": 2}),
    "swin": ("SwinForImageClassification", SWIN),
    "convnext": ("ConvNextForImageClassification", {"hidden_sizes": [8, 16], "depths": [2, 2], "num_stages": 2}),
}  # fmt: skip
FUSED = ["gpt-neox", "bloom", "falcon", "falcon-new", "persimmon", "gpt-bigcode", "phi3"]
CONVOLUTIONAL = ["convnext"]


@pytest.fixture
def undeclared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no family declared."""
    monkeypatch.setattr(sys.modules["sparsify.anatomy.read"], "architectures", lambda: [])


def build(name: str) -> Any:
    """Return a small model with random weights, in evaluation mode."""
    torch.manual_seed(0)
    kind, config = MODELS[name]
    model = of_transformers(kind)
    made = model(model.config_class(**config)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)  # also layer scales and biases, which begin at 0
    return made


def outputs(model: Any) -> Tensor:
    """Return what a model makes of fixed inputs."""
    made = torch.Generator().manual_seed(0)
    if model.main_input_name == "pixel_values":
        inputs = {"pixel_values": torch.randn(2, 3, 32, 32, generator=made)}
    else:
        inputs = {"input_ids": torch.randint(3, 40, (2, 7), generator=made)}
    with torch.no_grad():
        return next(iter(model(**inputs).values()))  # type: ignore[no-any-return]


def anatomy_of(model: nn.Module) -> Anatomy:
    found = read(model)
    assert found is not None
    return found


@pytest.mark.usefixtures("undeclared")
@pytest.mark.parametrize("name", MODELS)
def test_everything_inside_the_layers_is_found_and_verified(name: str) -> None:
    model = build(name)
    anatomy = anatomy_of(model)
    assert anatomy.inferred
    assert not anatomy.between
    assert not [block.doubt for block in (*anatomy.attentions, *anatomy.feed_forwards) if block.doubt]
    assert len(anatomy.feed_forwards) == (4 if name in ("swin", "convnext") else 2)
    assert len(anatomy.attentions) == {"convnext": 0, "swin": 4}.get(name, 2)
    assert Plan.of(recipe(targets=""), model, total_steps=99).notes == (), "nothing is left out"


@pytest.mark.usefixtures("undeclared")
@pytest.mark.parametrize("name", [name for name in MODELS if name not in CONVOLUTIONAL])
def test_what_heads_and_neurons_leave_has_no_effect(name: str) -> None:
    """The whole model, after a pruning: rows of dead heads and neurons may hold anything."""
    model = build(name)
    text = "pattern: {{type: {}, reduce: l2}}, sparsity: 0.5, scope: global, targets: {}"
    parts = [text.format("head", "attention"), text.format("neuron", "ffn")]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    from sparsify import Recipe

    modifiers = "".join(f"  - {{type: prune, window: {{begin: 0, end: 2, every: 1}}, {part}}}\n" for part in parts)
    manager = Manager(Recipe.parse(f"version: 1\nmodifiers:\n{modifiers}")).apply(model, optimizer, total_steps=3)
    for _ in range(3):
        manager.on_step_begin()
        next(iter(model.parameters())).grad = torch.zeros_like(next(iter(model.parameters())))
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()
    manager.finalize()
    before, dead = outputs(model), 0
    with torch.no_grad():
        for block in anatomy_of(model).attentions:
            columns = block.output.tensor if block.output.layout == "linear" else block.output.tensor.t()
            empty = (columns.view(columns.shape[0], block.groups, -1) == 0).all(2).all(0)
            for weight in block.projections:
                for each in (weight, *([bias] if (bias := weight.bias()) else [])):
                    rows = each.cube(each.tensor)
                    rows = rows.view(block.groups, -1, *rows.shape[1:])
                    rows[empty] = torch.randn_like(rows[empty])
            dead += int(empty.sum())
        for neurons in anatomy_of(model).feed_forwards:
            down = neurons.down.cube(neurons.down.tensor)[:, 0]
            empty = (down == 0).all(0)
            for weight in (neurons.up, *([neurons.gate] if neurons.gate else [])):
                for each in (weight, *([bias] if (bias := weight.bias()) else [])):
                    rows = each.cube(each.tensor)
                    rows[empty] = torch.randn_like(rows[empty])
            dead += int(empty.sum())
    assert dead > 10
    torch.testing.assert_close(outputs(model), before, atol=1e-4, rtol=1e-4)


def trial_of(name: str) -> tuple[Trial, str, AttentionPaths]:
    """Return what tries a model, the name of a layer of it, and the right paths."""
    from sparsify.anatomy.infer import Inference
    from sparsify.anatomy.repeated import elements

    model = build(name)
    found = list(elements(model))
    family = next(Inference(model).families(found, []))
    return Trial(Twin(model)), found[0][1], family.attentions[0]


@pytest.mark.parametrize("name", [name for name in FUSED if name not in ("falcon", "gpt-bigcode")])
def test_the_other_way_to_pack_is_refused(name: str) -> None:
    """Thirds for interleaved heads, and the other way round; a check of sizes alone would accept them.

    (With one key and value head for all, Falcon and GPT-BigCode, the two are one.)
    """
    from dataclasses import replace

    trial, layer, right = trial_of(name)
    trial.try_out(layer, right)
    wrong = replace(right, packing="blocks" if right.packing == "heads" else "heads")
    with pytest.raises(RefutedError):
        trial.try_out(layer, wrong)


@pytest.mark.parametrize("name", [*FUSED, "opt", "gemma3", "clip", "mpnet", "deberta-v2"])
@pytest.mark.parametrize("factor", [0.5, 2])
def test_another_size_of_heads_is_refused(name: str, factor: float) -> None:
    from dataclasses import replace

    trial, layer, right = trial_of(name)
    module = trial.twin.model.get_submodule(layer)
    from sparsify.anatomy.building import head_size, module_at
    from sparsify.layers import weights

    output = next(weights("", module_at(module, right.output)))  # type: ignore[arg-type]
    size = head_size(right, module, output)
    assert size is not None
    module.wrong = int(size * factor)  # type: ignore[assignment]
    with pytest.raises(RefutedError):
        trial.try_out(layer, replace(right, head_size="wrong", heads=""))


def test_a_norm_over_all_heads_makes_them_one() -> None:
    """OLMo 2: the roles are there, heads are not offered, and the plan says why."""
    import transformers

    model = transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**GROUPED))
    anatomy = anatomy_of(model)
    assert anatomy.role("attention.query")
    with pytest.raises(
        PlanError, match=r"self_attn and 1 more|heads cannot be pruned as wholes, not so when it was tried"
    ):
        Plan.of(recipe(targets="attention", pattern="head"), model, total_steps=99)
    assert Plan.of(recipe(targets="attention"), model, total_steps=99)
    assert Plan.of(recipe(targets="ffn", pattern="neuron"), model, total_steps=99)


class Layer(nn.Module):
    """Attention by hand, with a name for its heads, and a feed-forward block."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.num_heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.net = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.broken = False

    def forward(self, x: Tensor) -> Tensor:
        if self.broken:
            raise RuntimeError("this needs a GPU")
        q, k, v = (part(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        mixed = ((q @ k.transpose(-1, -2) / 2).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        return x + self.net(x)


class Model(nn.Module):
    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.blocks = nn.ModuleList(Layer() for _ in range(3))
        self.register_buffer("count", torch.tensor(3))
        self.head = nn.Linear(16, 2)
        for block in self.blocks:
            block.broken = broken  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))  # type: ignore[no-any-return]


def test_a_model_by_hand() -> None:
    anatomy = anatomy_of(Model())
    assert anatomy.roles() == [
        "default", "attention", "attention.query", "attention.key", "attention.value", "attention.output", "ffn", "ffn.up",
        "ffn.down", "embeddings", "task_head",
    ]  # fmt: skip
    assert [(block.heads, block.doubt) for block in anatomy.attentions] == [(4, "")] * 3
    assert [(layer.stack, layer.index) for layer in anatomy.layers] == [("blocks", 0), ("blocks", 1), ("blocks", 2)]
    assert all(layer.inferred and not layer.fixed for layer in anatomy.layers)


def test_what_cannot_be_run_is_not_offered_and_says_why() -> None:
    model = Model(broken=True)
    assert [block.doubt for block in anatomy_of(model).attentions] == [
        "not verified: it could not be run alone (RuntimeError: this needs a GPU)"
    ] * 3
    assert [block.doubt for block in anatomy_of(model).feed_forwards] == [""] * 3, "they can be run without the rest"
    with pytest.raises(
        PlanError, match=r"its heads cannot be pruned as wholes, not verified: it could not be run alone"
    ):
        Plan.of(recipe(targets="attention", pattern="head"), model, total_steps=99)


def test_a_trial_takes_no_longer_than_it_may() -> None:
    trial = Trial(Twin(Model()), seconds=0)
    with pytest.raises(UnverifiedError, match="takes more than 0 s"):
        trial.try_out("blocks.0", FeedForwardPaths(up="net.0", down="net.2"))


def test_the_model_is_left_as_it_was() -> None:
    model = Model().train()
    calls: list[str] = []
    model.blocks[0].register_forward_hook(lambda *_: calls.append("called"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    from sparsify.anatomy import infer

    infer._found.clear()
    assert anatomy_of(model).inferred
    assert torch.equal(torch.rand(3), wanted)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not calls
    assert hooks == [len(module._forward_pre_hooks) for module in model.modules()]
    assert all(module.training for module in model.modules())


def test_on_the_meta_device_as_on_any_other() -> None:
    from sparsify.anatomy import infer

    infer._found.clear()
    with torch.device("meta"):
        model = Model()
    assert [block.doubt for block in anatomy_of(model).attentions] == [""] * 3


def convolution(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, channels, 3), nn.BatchNorm2d(channels), nn.ReLU())


class Bottleneck(nn.Module):
    """YOLO's, which has the name of ResNet's and other parts."""

    def __init__(self) -> None:
        super().__init__()
        self.cv1, self.cv2 = convolution(8), convolution(8)


class Split(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cv1, self.cv2 = convolution(8), convolution(8)
        self.m = nn.ModuleList(Bottleneck() for _ in range(2))


class Detect(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cv = nn.ModuleList(convolution(8) for _ in range(2))


def test_a_sequence_of_blocks_of_another_family() -> None:
    net = nn.Sequential(convolution(8), Split(), convolution(8), Split(), Detect())
    anatomy = anatomy_of(nn.ModuleDict({"model": net}))
    assert "resnet" not in anatomy.families
    default = {weight.parameter_name for weight in anatomy.role("default")}
    wanted = {f"model.{name}" for name, value in net[:4].named_parameters() if value.dim() == 4}
    assert wanted <= default, "also what the blocks have beside their own layers"
    stacks = {layer.stack for layer in anatomy.layers}
    assert {"model", "model.1.m", "model.3.m"} <= stacks


def test_a_head_at_the_end_of_a_sequence_is_none_of_its_layers() -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 2)

    anatomy = anatomy_of(nn.Sequential(Bottleneck(), Bottleneck(), Classifier()))
    assert [weight.name for weight in anatomy.task_head] == ["2.fc.weight"]


def test_what_joins_two_stacks_is_default_too() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vision, self.projector, self.text = Model().blocks, nn.Linear(16, 16), Model().blocks
            self.out = nn.Linear(16, 4)

    anatomy = anatomy_of(Both())
    assert [weight.name for weight in anatomy.between] == ["projector.weight"]
    assert anatomy.between[0] in anatomy.role("default")
    assert [weight.name for weight in anatomy.task_head] == ["out.weight"]


def test_experts_are_covered_and_routers_are_not_pruned() -> None:
    import transformers

    model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**GROUPED, num_local_experts=4))
    anatomy = anatomy_of(model)
    assert anatomy.families == ("llama",)
    routers = {weight.parameter_name for weight in anatomy.role("router")}
    block = "block_sparse_moe" if OLD else "mlp"
    assert routers == {f"model.layers.{layer}.{block}.gate.weight" for layer in (0, 1)}
    plan = Plan.of(recipe(targets=""), model, total_steps=99)
    assert plan.coverage is not None
    assert plan.coverage.share == 1
    assert not routers & {weight.parameter_name for weight in plan.targeted()}
    assert len(anatomy.feed_forwards) == 2 * 4


def test_keys_and_values_that_other_layers_use() -> None:
    """Gemma 3n: alone, a layer's heads would be its own; and its neurons are chosen by all of them."""
    import transformers

    kinds = ["sliding_attention", "full_attention"]
    config = transformers.Gemma3nTextConfig(
        **GROUPED | {"num_hidden_layers": 4, "head_dim": 8, "intermediate_size": [64] * 4},
        **{"vocab_size_per_layer_input": 40, "hidden_size_per_layer_input": 8, "laurel_rank": 4},
        **{"num_kv_shared_layers": 2, "layer_types": kinds * 2, "activation_sparsity_pattern": [0.9, 0.9, 0.0, 0.0]},
    )
    anatomy = anatomy_of(transformers.Gemma3nForCausalLM(config))
    doubts = [block.doubt for block in anatomy.attentions]
    assert doubts[:2] == ["not so: layers after it use its keys and values"] * 2
    assert doubts[2:] == ["not so: it uses the keys and values of a layer before it"] * (2 if OLD else 0)
    neurons = [block.doubt for block in anatomy.feed_forwards]
    assert all("not so when it was tried" in doubt for doubt in neurons[:2])
    assert neurons[2:] == ["", ""]


def test_a_series_of_children_with_numbers_and_letters_is_layers() -> None:
    """Inception's blocks stand beside its stem and its head, in no container."""

    class Mixed(nn.Module):
        def __init__(self, inside: int) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(inside, 8, 1), nn.Conv2d(inside, 8, 3, padding=1)

        def forward(self, images: Tensor) -> Tensor:
            return torch.cat([self.left(images), self.right(images)], 1)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.Conv2d_1a_3x3 = nn.Conv2d(3, 4, 3)
            self.Mixed_5b, self.Mixed_5c, self.Mixed_6a = Mixed(4), Mixed(16), Mixed(16)
            self.fc = nn.Linear(16, 2)

        def forward(self, images: Tensor) -> Tensor:
            found: Tensor = self.fc(
                self.Mixed_6a(self.Mixed_5c(self.Mixed_5b(self.Conv2d_1a_3x3(images)))).mean((2, 3))
            )
            return found

    anatomy = anatomy_of(Model())
    assert [layer.name for layer in anatomy.layers] == ["Mixed_5b", "Mixed_5c", "Mixed_6a"]
    assert [weight.name for weight in anatomy.embeddings] == ["Conv2d_1a_3x3.weight"]
    assert [weight.name for weight in anatomy.task_head] == ["fc.weight"]


def test_the_fixed_sum_of_a_detector_is_no_layer() -> None:
    """YOLO's `dfl` is a convolution with the weights 0, 1, 2, …, which takes the mean of a distribution."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Sequential(
                *(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1)) for _ in range(3))
            )
            self.detect = nn.Module()
            self.detect.dfl = nn.Module()
            self.detect.dfl.conv = nn.Conv2d(4, 1, 1, bias=False).requires_grad_(False)

    anatomy = anatomy_of(Model())
    assert "detect.dfl.conv.weight" not in {weight.name for weight in anatomy.role("default")}
    assert "detect.dfl.conv.weight" in {weight.name for weight in anatomy.task_head}
