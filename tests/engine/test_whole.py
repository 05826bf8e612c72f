"""Models: what is accelerated and why not, that names and states stay, activations, choices, and the way back."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import KernelError, Manager, Recipe, StateError, engine, measure
from sparsify.engine import trial, whole
from sparsify.engine.chosen import Chosen
from sparsify.engine.fusing import Fused, activation_of
from sparsify.engine.layer import Sparse, SparseLinear
from sparsify.engine.rules import worth_a_trial

TOKENS = torch.arange(24).view(2, 12)


def prune(weight: Tensor, zeros: float = 0.9) -> None:
    """Set the smallest weights to zero."""
    with torch.no_grad():
        weight.mul_(weight.abs() > weight.abs().float().flatten().quantile(zeros))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.act(self.up(x)))


class Net(nn.Module):
    """Layers of every sort: those that qualify, and one for each reason why not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(32, 64)
        self.first, self.second = Block(), Block()
        self.full = nn.Linear(64, 64)
        self.tied = nn.Linear(64, 32, bias=False)
        self.tied.weight = self.table.weight
        self.apart = nn.utils.parametrizations.weight_norm(nn.Linear(64, 64))
        self.attention = nn.MultiheadAttention(64, 2)
        self.bfloat = nn.Linear(64, 64).bfloat16()
        self.never = nn.Linear(64, 64)
        for block in (self.first, self.second):
            prune(block.up.weight)
            prune(block.down.weight)
        for layer in (self.never, self.bfloat, self.attention.out_proj):
            prune(layer.weight.data)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.tied(self.full(self.second(self.first(self.table(tokens)))))


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Times that are given instead of measured: dense takes 2, the engine 1, but where a test says otherwise."""
    given = {"dense": 2.0, "unstructured": 1.0, "2x1": 1.5, "4x1": 1.5}

    def timed(calls: Any, *_: Any, **__: Any) -> list[list[float]]:
        return [[given[name]] for name in current[: len(calls)]]

    current: list[str] = []
    original = trial.tried

    def tried(layer: Any, packed: Any, tokens: int) -> Any:
        current[:] = ["dense", *packed]
        return original(layer, packed, tokens)

    monkeypatch.setattr(trial, "timed", timed)
    monkeypatch.setattr(whole, "tried", tried)
    return given


@torch.inference_mode()
def output(model: nn.Module, *inputs: Any) -> Tensor:
    found = model(*(inputs or (TOKENS,)))
    assert isinstance(found, Tensor)
    return found


def test_every_layer_is_sparse_or_has_its_reason(faster: dict[str, float]) -> None:
    model = Net()
    before, state = output(model), copy.deepcopy(model.state_dict())
    parameters = dict(model.named_parameters())
    chosen = engine.accelerate(model, sample=TOKENS)
    assert chosen.sparse == ("first.up", "first.down", "second.up", "second.down")
    reasons = {choice.layer: choice.why for choice in chosen.layers if not choice.sparse}
    assert reasons.pop("full").startswith("0.0% of its weights are zero: below 30%")
    assert reasons == {
        "tied": "tied: it is table.weight too",
        "apart": "its weight is computed from others (parametrized)",
        "attention.out_proj": "a NonDynamicallyQuantizableLinear uses its weight in its own way",
        "bfloat": "its weight is bfloat16: the engine takes float32",
        "never": "the model does not call it on the sample",
    }
    assert isinstance(model.first.up, SparseLinear)
    assert isinstance(model.first.up, nn.Linear)
    assert isinstance(model.first.act, Fused)
    assert torch.allclose(output(model), before, atol=1e-5)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    assert engine.restore(model) == chosen.sparse
    assert torch.equal(output(model), before)
    assert type(model.first.up) is nn.Linear
    assert type(model.first.act) is nn.GELU
    assert model.first.up.weight.requires_grad
    assert not list(model.first.up.buffers())
    assert repr(model) == repr(Net())


def test_activations_are_fused_only_where_the_sample_shows_it(faster: dict[str, float]) -> None:
    model = Net()
    without = engine.accelerate(model)
    assert {choice.activation for choice in without.layers} == {"none"}
    assert "never" in without.sparse, "without a sample nobody knows what is called"
    engine.restore(model)

    class Twice(nn.Module):
        """One activation behind two layers: it cannot be taken."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.act = nn.Linear(64, 64), nn.Linear(64, 64), nn.ReLU()
            prune(self.one.weight)
            prune(self.two.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.two(self.act(self.one(x))))

    chosen = engine.accelerate(Twice(), sample=torch.randn(5, 64))
    assert [choice.fused for choice in chosen.layers] == ["", ""]


def test_a_model_that_uses_an_output_twice_is_given_back(faster: dict[str, float]) -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.act = nn.Linear(64, 64), nn.SiLU()
            prune(self.one.weight)

        def forward(self, x: Tensor) -> Tensor:
            y = self.one(x)
            return y * self.act(y)

    model, x = Gated(), torch.randn(5, 64)
    before = output(model, x)
    with pytest.raises(KernelError, match="outputs are off by"):
        engine.accelerate(model, sample=x)
    assert type(model.one) is nn.Linear
    assert type(model.act) is nn.SiLU
    assert torch.equal(output(model, x), before)


def test_activations_are_known_by_what_they_compute() -> None:
    class Quick(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(1.702 * x)

    known = {nn.ReLU(): "relu", nn.GELU(): "gelu", nn.GELU("tanh"): "gelu_tanh", nn.SiLU(): "silu"}
    assert {module: activation_of(module) for module in known} == known
    for other in (Quick(), nn.ReLU6(), nn.Tanh(), nn.Softmax(-1), nn.Flatten(), nn.LeakyReLU(), nn.Hardswish()):
        assert activation_of(other) is None


def test_the_fastest_kernel_is_taken_and_none_that_is_slower(faster: dict[str, float]) -> None:
    torch.manual_seed(1)
    blocks = nn.Linear(64, 64)
    with torch.no_grad():
        blocks.weight.mul_((torch.rand(16, 1, 64) < 0.2).expand(-1, 4, -1).reshape(64, 64))
    model = nn.Sequential(blocks)
    x = torch.randn(9, 64)
    before = output(model, x)
    for times, kernel in (({"4x1": 0.5}, "4x1"), ({"4x1": 3.0, "2x1": 0.9}, "2x1"), ({"2x1": 2.0}, "unstructured")):
        faster.update(times)
        chosen = engine.accelerate(model, tokens=9)
        assert [choice.kernel for choice in chosen.layers] == [kernel]
        assert torch.allclose(output(model, x), before, atol=1e-5)
        engine.restore(model)
    faster.update(unstructured=1.95)
    chosen = engine.accelerate(model, tokens=9)
    assert chosen.layers[0].why == "not faster by 5% here: 1.03×"
    faster.update({"unstructured": 4.0, "2x1": 4.0, "4x1": 4.0})
    chosen = engine.accelerate(model, tokens=9)
    assert (chosen.layers[0].kernel, chosen.layers[0].why) == ("dense", "slower here: 0.50×")
    assert type(blocks) is nn.Linear


def test_choices_are_data_and_are_made_again_without_a_trial(monkeypatch: pytest.MonkeyPatch, faster: Any) -> None:
    first = Net()
    chosen = engine.accelerate(first, sample=TOKENS)
    assert "4 of 10 layers are sparse" in str(chosen)
    assert "unstructured + gelu" in chosen.table()
    data = json.loads(json.dumps(chosen.to_dict()))
    assert Chosen.from_dict(data) == chosen
    monkeypatch.setattr(whole, "tried", None)
    other = Net()
    assert engine.accelerate(other, choices=data).layers == chosen.layers
    assert torch.equal(output(other), output(first))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data["layers"][0].update(layer="first.op"), r"choices name first\.op.*did you mean 'first\.up'"),
        (lambda data: data["layers"][0].update(shape=[1, 2]), r"have first\.up as 1 × 2; here it is 128 × 64"),
        (lambda data: data["layers"][4].update(kernel="4x1"), r"have full sparse, which cannot be: 0\.0%"),
        (lambda data: data["layers"][0].update(kernel="3x1"), "has kernel '3x1' .one of: dense, unstructured"),
        (lambda data: data["layers"][0].update(fused="table"), r"have table as gelu, which it is not here"),
        (lambda data: data["layers"][0].update(fused=""), "with activation 'gelu' of ''"),
        (lambda data: data.update(engine="other"), "choices of the engine are what"),
        (lambda data: data["layers"].append(3), "a layer of choices has a name"),
    ],
)
def test_choices_that_cannot_be_followed_change_nothing(change: Any, words: str, faster: Any) -> None:
    data = engine.accelerate(Net(), sample=TOKENS).to_dict()
    change(data)
    model = Net()
    with pytest.raises(KernelError, match=words):
        engine.accelerate(model, choices=data)
    assert not any(isinstance(module, (Sparse, Fused)) for module in model.modules())


def test_gradients_changed_weights_and_other_types_are_refused(faster: Any) -> None:
    model = Net()
    engine.accelerate(model, sample=TOKENS)
    with pytest.raises(KernelError, match="compute no gradients"):
        model(TOKENS)
    with torch.no_grad():
        x = torch.randn(3, 64)
        layer = model.first.up
        with pytest.raises(KernelError, match="float32, bfloat16 or float16 on the CPU; got torch.float64"):
            layer(x.double())
        assert layer(x.bfloat16()).dtype == torch.bfloat16
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        assert torch.equal(layer(x.half()), layer(x.half().float()).half())
        layer.weight[0, 0] += 1
        with pytest.raises(KernelError, match="changed after it had been packed"):
            layer(x)
        engine.restore(model)
        engine.accelerate(model, sample=TOKENS)
        model.load_state_dict(Net().state_dict())
        with pytest.raises(KernelError, match="changed after it had been packed"):
            output(model)


def test_copies_stand_for_themselves(faster: Any) -> None:
    model = Net()
    engine.accelerate(model, sample=TOKENS)
    other = copy.deepcopy(model)
    wanted = output(model)
    engine.restore(model)
    assert torch.equal(output(other), wanted)
    assert len(engine.restore(other)) == 4
    assert torch.equal(output(other), output(model))


@pytest.mark.filterwarnings("ignore")
def test_it_is_traced_and_exported_without_a_break(faster: Any) -> None:
    model = Net()
    engine.accelerate(model, sample=TOKENS)
    wanted = output(model)
    with torch.inference_mode():
        traced = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert torch.allclose(traced(TOKENS), wanted, atol=1e-6)
    with torch.no_grad():
        exported = torch.export.export(model, (TOKENS,))
        assert torch.allclose(exported.module()(TOKENS), wanted, atol=1e-6)


def test_what_cannot_be_accelerated_is_one_error(faster: Any) -> None:
    with pytest.raises(KernelError, match="has neither linear layers nor convolutions"):
        engine.accelerate(nn.Sequential(nn.Conv3d(3, 3, 1)))
    with pytest.raises(KernelError, match="on the meta device"):
        engine.accelerate(nn.Linear(3, 3, device="meta"))
    with pytest.raises(KernelError, match="tokens is 0"):
        engine.accelerate(Net(), tokens=0)
    with pytest.raises(KernelError, match="margin is nan"):
        engine.accelerate(Net(), margin=float("nan"))
    with pytest.raises(KernelError, match="the model cannot be run on the sample: "):
        engine.accelerate(Net(), sample=torch.randn(3))
    recipe = Recipe.parse("{version: 1, modifiers: [{type: prune, targets: '*', sparsity: 0.5}]}")
    model = nn.Sequential(nn.Linear(8, 8))
    manager = Manager(recipe).apply(model, torch.optim.SGD(model.parameters(), lr=0.1), total_steps=4)
    with pytest.raises(KernelError, match="a manager is at work"):
        engine.accelerate(model)
    with pytest.raises(KernelError, match="a manager is at work"):
        engine.restore(model)
    manager.detach()


def test_a_real_trial_takes_sparse_kernels_for_few_weights_only() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 512), nn.Linear(512, 512))
    prune(model[0].weight, 0.97)
    prune(model[1].weight, 0.35)
    chosen = engine.accelerate(model, tokens=128)
    assert chosen.layers[0].kernel == "unstructured"
    assert chosen.layers[0].faster is not None
    assert chosen.layers[0].faster > 1.5, "far from any noise"


def blocks(rows: int, columns: int, kept: float) -> Tensor:
    """A random matrix [256, 256] of whole blocks."""
    torch.manual_seed(2)
    mask = torch.rand(256 // rows, 256 // columns) < kept
    return torch.randn(256, 256) * mask.repeat_interleave(rows, 0).repeat_interleave(columns, 1)


def test_block_kernels_are_tried_where_rows_share_columns() -> None:
    two_of_four = torch.randn(256, 256).view(256, 64, 4) * (torch.rand(256, 64, 4).argsort(-1) < 2)
    found = {
        "unstructured": worth_a_trial(blocks(1, 1, 0.1)),
        "2:4": worth_a_trial(two_of_four.view(256, 256)),
        "1x4": worth_a_trial(blocks(1, 4, 0.1)),
        "2x1": worth_a_trial(blocks(2, 1, 0.1)),
        "4x1": worth_a_trial(blocks(4, 1, 0.1)),
        "32x32": worth_a_trial(blocks(32, 32, 0.1)),
    }
    one, every = ["unstructured"], ["unstructured", "2x1", "4x1"]
    assert found == {
        "unstructured": one, "2:4": one, "1x4": one, "2x1": ["unstructured", "2x1"], "4x1": every, "32x32": every
    }  # fmt: skip


@pytest.mark.parametrize("shape", [(4, 1), (32, 32)])
def test_a_real_trial_takes_block_kernels_for_blocks(shape: tuple[int, int]) -> None:
    model = nn.Sequential(nn.Linear(256, 256))
    with torch.no_grad():
        model[0].weight.copy_(blocks(*shape, 0.25))
    chosen = engine.accelerate(model, tokens=256).layers[0]
    assert min(chosen.seconds["2x1"], chosen.seconds["4x1"]) < chosen.seconds["unstructured"]
    assert chosen.kernel in ("2x1", "4x1")


def test_models_of_transformers(faster: Any) -> None:
    transformers = pytest.importorskip("transformers")
    bert = transformers.BertConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, vocab_size=99
    )
    gpt2 = transformers.GPT2Config(n_embd=64, n_layer=2, n_head=2, vocab_size=99)
    for made, fused in (
        (transformers.BertModel(bert).eval(), "encoder.layer.0.intermediate.intermediate_act_fn"),
        (transformers.GPT2Model(gpt2).eval(), "h.0.mlp.act"),
    ):
        model: Any = made
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "embed" not in name and "wte" not in name and "wpe" not in name:
                prune(parameter.data)
        sample = {"input_ids": torch.arange(40).view(2, 20), "attention_mask": torch.ones(2, 20, dtype=torch.int64)}
        with torch.inference_mode():
            before = model(**sample)[0]
            chosen = engine.accelerate(model, sample=sample)
            assert len(chosen.sparse) == len(chosen.layers)
            assert fused in {choice.fused for choice in chosen.layers}
            assert torch.allclose(model(**sample)[0], before, atol=1e-5)
            engine.restore(model)
            assert torch.equal(model(**sample)[0], before)


def test_dense_weights_may_be_let_go(faster: Any) -> None:
    model, dense = Net(), Net()
    chosen = engine.accelerate(model, sample=TOKENS, keep_dense=False)
    assert model.first.up.weight.is_meta
    assert torch.allclose(output(model), output(dense), atol=1e-5)
    state = model.state_dict()
    assert list(state) == list(dense.state_dict())
    assert all(torch.equal(value, state[name]) for name, value in dense.state_dict().items())
    with pytest.raises(KernelError, match=r"first\.up\.weight is packed, and nothing can be loaded into it"):
        model.load_state_dict(state)
    with pytest.raises(StateError, match=r"sparsify\.engine\.restore"):
        measure(model)
    moved = copy.deepcopy(model).to("cpu").bfloat16()
    assert (moved.first.up.weight.dtype, moved.first.up.bias.dtype) == (torch.bfloat16, torch.bfloat16)
    assert moved.first.up.weight.is_meta
    assert list(moved.state_dict()) == list(state)
    assert moved.state_dict()["first.up.weight"].dtype == torch.bfloat16
    assert engine.accelerate(model, sample=TOKENS).sparse == (), "what is sparse stays as it is"
    assert engine.restore(model) == chosen.sparse
    assert torch.equal(output(model), output(dense))
    assert model.first.up.weight.requires_grad


def test_choices_are_saved_with_a_model_and_load_with_it(tmp_path: Any, faster: Any, monkeypatch: Any) -> None:
    transformers = pytest.importorskip("transformers")
    storage = pytest.importorskip("sparsify.storage")
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=64, n_layer=1, n_head=2, vocab_size=99, bos_token_id=1, eos_token_id=2)
    model = transformers.GPT2LMHeadModel(config).eval()
    for name, parameter in model.named_parameters():
        if ".h." in name and parameter.dim() == 2:
            prune(parameter.data)
    folder, sample = tmp_path / "model", {"input_ids": torch.arange(40).view(2, 20)}
    model.save_pretrained(folder)
    chosen = engine.accelerate(model, sample=sample)
    engine.save_choices(folder, chosen)
    storage.pack(folder, tmp_path / "model.packed")
    monkeypatch.setattr(whole, "tried", None)
    with torch.inference_mode():
        wanted = model(**sample).logits
        for place in (folder, tmp_path / "model.packed"):
            loaded = engine.load(place)
            assert loaded.transformer.h[0].mlp.c_fc.weight.is_meta
            assert torch.equal(loaded(**sample).logits, wanted)
            loaded.save_pretrained(tmp_path / "again")
            assert torch.equal(pretrained_logits(tmp_path / "again", sample), wanted_dense(model, sample))
    (folder / "sparsify_engine.json").write_text("{}")
    with pytest.raises(KernelError, match="choices of the engine are what"):
        engine.load(folder)


def pretrained_logits(folder: Any, sample: dict[str, Tensor]) -> Tensor:
    from sparsify import pretrained

    logits: Tensor = pretrained.load(folder)(**sample).logits
    return logits


def wanted_dense(model: Any, sample: dict[str, Tensor]) -> Tensor:
    dense = copy.deepcopy(model)
    engine.restore(dense)
    logits: Tensor = dense(**sample).logits
    return logits
