"""Operations of known layers, by hand; zeros taken out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sparsify.benchmarking.flops import count_flops
from tests.models import MODELS, build


class One(nn.Module):
    """A model of one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return what the layer gives."""
        return self.layer(x)  # type: ignore[no-any-return]


LAYERS = {
    "linear": (nn.Linear(4, 3), (5, 4), 2 * 5 * 4 * 3),
    "linear on sequences": (nn.Linear(4, 3), (2, 5, 4), 2 * 2 * 5 * 4 * 3),
    "convolution": (nn.Conv2d(4, 6, 3, padding=1), (2, 4, 8, 8), 2 * 2 * 8 * 8 * 6 * 4 * 9),
    "groups": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (2, 4, 8, 8), 2 * 2 * 8 * 8 * 6 * 2 * 9),
    "stride": (nn.Conv1d(4, 6, 3, stride=2), (1, 4, 9), 2 * 4 * 6 * 4 * 3),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 8, 8), 2 * 2 * 8 * 8 * 6 * 4 * 9),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_by_hand(name: str) -> None:
    layer, shape, wanted = LAYERS[name]
    model, x = One(layer), {"x": torch.randn(shape)}
    with torch.no_grad():
        layer.weight.normal_()  # type: ignore[union-attr, operator]
    found = count_flops(model, x)
    assert (found.dense, found.effective, found.weights) == (wanted, wanted, wanted)
    with torch.no_grad():
        layer.weight[:, 1:2] = 0  # type: ignore[index, operator]
    left = 1 - 1 / layer.weight.shape[1]  # type: ignore[union-attr, index]
    found = count_flops(model, x)
    assert (found.dense, found.effective) == (wanted, round(wanted * left))


def test_a_layer_of_attention_by_hand() -> None:
    """Projections and feed-forward have weights; attention itself has none, and its zeros are nobody's."""
    width, inner, batch, length = 32, 64, 2, 5
    model = One(nn.TransformerEncoderLayer(width, 2, inner, batch_first=True))
    tokens = batch * length
    weights = 2 * tokens * (4 * width * width + 2 * width * inner)
    attention = 2 * 2 * tokens * length * width
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter[:, ::2] = 0
    found = count_flops(model, {"x": torch.randn(batch, length, width)})
    assert (found.dense, found.weights, found.effective) == (weights + attention, weights, weights // 2 + attention)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5", "llama", "vit", "resnet"])
def test_models_agree_with_torch(name: str) -> None:
    """Written out, torch counts as much; a model whose matrices are all zero has attention left alone."""
    model, inputs = build(name).eval(), MODELS[name].inputs()
    found = count_flops(model, inputs)
    if name != "resnet":
        model.set_attn_implementation("eager")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(**inputs)
    assert found.dense == found.effective == counter.get_total_flops()
    assert (found.weights == found.dense) == (name == "resnet")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.zero_()
    assert count_flops(model, inputs).effective == found.dense - found.weights


def test_what_has_no_rule_is_named() -> None:
    class Last(One):
        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)[0]  # type: ignore[no-any-return]

    found = count_flops(Last(nn.LSTM(4, 6)), {"x": torch.randn(5, 2, 4)})
    assert found.uncounted == ["aten.mkldnn_rnn_layer"]
    assert found.dense == 0
