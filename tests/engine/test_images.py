"""Models with convolutions: which are accelerated, the norms and activations behind them, and the way back."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import KernelError, engine
from sparsify.engine import trial, whole
from sparsify.engine.chosen import Chosen
from sparsify.engine.convolutional import SparseConv2d, window_of
from sparsify.engine.fusing import Fused

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
IMAGES = torch.randn(2, 3, 17, 19, generator=torch.Generator().manual_seed(1))


def prune(weight: Tensor, zeros: float = 0.9) -> None:
    with torch.no_grad():
        weight.mul_(weight.abs() > weight.abs().flatten().quantile(zeros))


class Net(nn.Module):
    """Convolutions of every sort."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 7, stride=2, padding=3)
        self.norm, self.act = nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        self.same = nn.Conv2d(16, 24, (2, 3), padding="same", dilation=(1, 2), bias=False)
        self.plain = nn.BatchNorm2d(24, affine=False)
        self.point = nn.Conv2d(24, 32, 1)
        self.gelu = nn.GELU()
        self.grouped = nn.Conv2d(32, 32, 3, groups=4)
        self.mirrored = nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect")
        self.tall = nn.Conv2d(32, 8, (17, 1), padding=(8, 0))
        self.line = nn.Conv1d(8, 12, 5, stride=2, padding=4)
        self.line_norm = nn.BatchNorm1d(12)
        self.head = nn.Linear(12, 5)
        for module in self.modules():
            if isinstance(module, (nn.Conv1d, nn.Conv2d)):
                prune(module.weight)
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.running_mean.normal_()  # type: ignore[union-attr, operator]
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
                if module.affine:
                    nn.init.normal_(module.weight)
                    nn.init.normal_(module.bias)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        x = self.plain(self.same(self.act(self.norm(self.stem(images)))))
        x = self.tall(self.mirrored(self.grouped(self.gelu(self.point(x)))))
        return self.head(self.line_norm(self.line(x.flatten(2))).mean(2))  # type: ignore[no-any-return]


@torch.inference_mode()
def output(model: nn.Module, images: Tensor = IMAGES) -> Tensor:
    found = model(images)
    assert isinstance(found, Tensor)
    return found


def accelerated(**options: Any) -> tuple[Net, Chosen]:
    model = Net()
    return model, engine.accelerate(model, sample=IMAGES, **options)


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times that are given instead of measured: the engine takes half as long as torch."""

    def timed(calls: Any, *_: Any, **__: Any) -> list[list[float]]:
        return [[1.0] if "sparse" in str(call) or "like_dense" in str(call) else [2.0] for call in calls]

    monkeypatch.setattr(trial, "timed", timed)


def test_every_convolution_is_sparse_or_has_its_reason(half: None) -> None:
    model = Net()
    before, state, shown = output(model), copy.deepcopy(model.state_dict()), repr(model)
    chosen = engine.accelerate(model, sample=IMAGES)
    assert chosen.sparse == ("stem", "same", "point", "line")
    reasons = {choice.layer: choice.why for choice in chosen.layers if not choice.sparse}
    assert reasons.pop("head").startswith("0.0% of its weights are zero")
    assert reasons == {
        "grouped": "it has 4 groups: the engine takes convolutions of one",
        "mirrored": "its padding is reflect: the engine pads with zeros",
        "tall": "its kernel has 17 rows: the engine takes 16 at most",
    }
    taken = {choice.layer: (choice.norm, choice.activation) for choice in chosen.layers if choice.sparse}
    assert taken == {
        "stem": ("norm", "relu"), "same": ("plain", "none"), "point": ("", "gelu"), "line": ("line_norm", "none")
    }  # fmt: skip
    assert chosen.layers[0].tokens == 2 * 9 * 10
    assert "unstructured + norm + relu" in str(chosen)
    assert isinstance(model.stem, SparseConv2d)
    assert isinstance(model.norm, nn.BatchNorm2d)
    assert all(isinstance(each, Fused) for each in (model.norm, model.act, model.plain, model.gelu, model.line_norm))
    assert torch.allclose(output(model), before, atol=1e-5)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert engine.restore(model) == chosen.sparse
    assert torch.equal(output(model), before)
    assert repr(model) == shown
    assert not any(name.startswith("sparsify") for module in model.modules() for name in vars(module))


def test_sizes_other_than_the_samples_and_single_images(half: None) -> None:
    model, _ = accelerated()
    for images in (torch.randn(3, 3, 32, 20), torch.randn(1, 3, 8, 9).to(memory_format=torch.channels_last)):
        assert torch.allclose(output(model, images), output(Net(), images), atol=1e-5)
    stem = Net().stem
    one = Net().norm(stem(IMAGES[:1])).relu()[0]
    assert torch.allclose(output(model.stem, IMAGES[0]), one, atol=1e-5), "its norm and activation are in it"
    with pytest.raises(KernelError, match=r"takes 3 channels and 2 more sizes; got \(2, 4, 9, 9\)"):
        output(model.stem, torch.randn(2, 4, 9, 9))


def test_without_a_sample_convolutions_stay_dense(half: None) -> None:
    chosen = engine.accelerate(Net())
    reasons = {choice.layer: choice.why for choice in chosen.layers}
    assert reasons["stem"] == "the size of its inputs is not known without a sample"
    assert not chosen.sparse


def test_choices_are_made_again_without_a_sample(half: None, monkeypatch: pytest.MonkeyPatch) -> None:
    first, chosen = accelerated()
    data = json.loads(json.dumps(chosen.to_dict()))
    monkeypatch.setattr(whole, "tried", None)
    other = Net()
    assert engine.accelerate(other, choices=data, keep_dense=False).layers == chosen.layers
    assert other.stem.weight.is_meta
    assert torch.equal(output(other), output(first))
    assert all(torch.equal(value, Net().state_dict()[name]) for name, value in other.state_dict().items())
    engine.restore(other)
    assert torch.equal(output(other), output(Net()))


@pytest.mark.parametrize("norm", ["plain", "act", "nothing"])
def test_a_norm_that_does_not_fit_is_refused(half: None, norm: str) -> None:
    data = accelerated()[1].to_dict()
    data["layers"][0]["norm"] = norm
    model = Net()
    with pytest.raises(KernelError, match=f"choices have {norm} as the batch norm of stem, which it is not here"):
        engine.accelerate(model, choices=data)
    assert not any(isinstance(module, Fused) for module in model.modules())


def test_a_norm_that_changes_is_computed_as_it_is(half: None) -> None:
    model, _ = accelerated()
    dense = Net()
    output(model)
    for each in (model, dense):
        with torch.no_grad():
            each.norm.weight.mul_(-2)
            each.norm.running_mean.add_(1)  # type: ignore[union-attr, operator]
            each.stem.bias.add_(3)  # type: ignore[union-attr]
    assert torch.allclose(output(model), output(dense), atol=1e-5)
    for each in (model, dense):
        each.norm.bias = nn.Parameter(torch.full((16,), 0.5))
    assert torch.allclose(output(model), output(dense), atol=1e-5)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        model.norm.bias.add_(1)
    assert torch.allclose(output(copied), output(dense), atol=1e-5)


def test_a_norm_in_training_is_refused(half: None) -> None:
    model, _ = accelerated()
    model.train()
    with torch.no_grad(), pytest.raises(KernelError, match=r"is in training mode: call model.eval\(\)"):
        model(IMAGES)


def test_a_norm_is_taken_only_where_it_is_all_that_follows(half: None) -> None:
    class Forked(nn.Module):
        def __init__(self, norm: nn.Module) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 3), norm
            prune(self.conv.weight)
            self.eval()

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return y + self.norm(y)

    model = Forked(nn.BatchNorm2d(8))
    nn.init.constant_(model.norm.bias, 2)  # type: ignore[arg-type]
    before = output(model)
    with pytest.raises(KernelError, match="outputs are off by"):
        engine.accelerate(model, sample=IMAGES)
    assert type(model.norm) is nn.BatchNorm2d
    assert torch.equal(output(model), before)
    hooked = nn.BatchNorm2d(8)
    hooked.register_forward_hook(lambda *_: None)
    for norm in (hooked, nn.BatchNorm2d(8, track_running_stats=False), nn.InstanceNorm2d(8)):
        chosen = engine.accelerate(Forked(norm), sample=IMAGES)
        assert (chosen.layers[0].sparse, chosen.layers[0].norm) == (True, "")


@pytest.mark.parametrize("inference", [True, False])
def test_a_sum_in_place_keeps_an_activation(half: None, inference: bool) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()
            prune(self.conv.weight, 0.5)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            y += x
            return self.act(y)  # type: ignore[no-any-return]

    model = Residual()
    before = output(model)
    with torch.inference_mode(inference):
        chosen = engine.accelerate(model, sample=IMAGES)
    assert (chosen.sparse, chosen.layers[0].activation) == (("conv",), "none")
    assert torch.allclose(output(model), before, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_it_is_traced_exported_and_casts(half: None) -> None:
    model, _ = accelerated()
    wanted = output(model)
    with torch.no_grad():
        assert torch.allclose(torch.compile(model, fullgraph=True, backend="aot_eager")(IMAGES), wanted, atol=1e-5)
        assert torch.allclose(torch.export.export(model, (IMAGES,)).module()(IMAGES), wanted, atol=1e-5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert model.stem(IMAGES).dtype == torch.bfloat16
    with pytest.raises(KernelError, match="compute no gradients"):
        model(IMAGES.clone().requires_grad_())


def test_same_and_valid_padding_is_torchs() -> None:
    for sizes in ((1, 1), (2, 3), (4, 5)):
        for padding in ("same", "valid"):
            conv = nn.Conv2d(2, 3, sizes, padding=padding, dilation=(1, 2))
            y = engine.sparse_convolution(
                IMAGES[:, :2],
                engine.pack(conv.weight.detach().flatten(1)),
                window_of(conv),
                3,
                bias=conv.bias.detach(),  # type: ignore[union-attr]
            )
            assert torch.allclose(y, conv(IMAGES[:, :2]), atol=1e-5)


def test_a_real_trial_takes_convolutions_of_few_weights_only() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.Conv2d(256, 256, 3, padding=1))
    prune(model[0].weight, 0.98)  # type: ignore[arg-type]
    prune(model[1].weight, 0.31)  # type: ignore[arg-type]
    chosen = engine.accelerate(model, sample=torch.randn(1, 256, 14, 14))
    assert [choice.kernel != "dense" for choice in chosen.layers] == [True, False]


def test_models_of_transformers(half: None) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[2, 1], layer_type="bottleneck")
    model: Any = transformers.ResNetForImageClassification(config).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            prune(module.weight)
    sample = {"pixel_values": torch.randn(2, 3, 32, 32)}
    with torch.inference_mode():
        before = model(**sample).logits
        chosen = engine.accelerate(model, sample=sample)
        convolutions = [choice for choice in chosen.layers if choice.layer.endswith("convolution")]
        assert all(choice.sparse and choice.norm for choice in convolutions)
        assert {choice.activation for choice in convolutions} == {"relu", "none"}
        assert torch.allclose(model(**sample).logits, before, atol=1e-5)
        engine.restore(model)
        assert torch.equal(model(**sample).logits, before)
