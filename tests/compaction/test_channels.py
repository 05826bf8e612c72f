"""Dead channels leave convolutional networks, through the graph that made their masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sparsify import Manager, Recipe
from sparsify.compaction import compacted
from sparsify.structure.graph import channels
from tests import networks
from tests.majors import of_transformers

SLICED = ("uneven",)
"""What cuts channels apart at fixed places cannot be made narrower, without another program."""


def settle(model: nn.Module) -> None:
    """Give batch norms statistics and shifts that are not their first ones."""
    made = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.running_mean, module.bias):
                if tensor is not None:
                    tensor.data.normal_(generator=made)


@torch.no_grad()
def kill(model: nn.Module, inputs: Any = None) -> int:
    """Let every second group of every set of channels die; return how many."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    count = 0
    for each in channels(model, inputs).sets:
        gone = torch.arange(0, each.count, 2)[: each.count - 1]
        count += len(gone)
        for side in each.dying:
            tensors[side.name].movedim(side.axis, 0)[side.places[torch.isin(side.groups, gone)]] = 0
    return count


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_channels_of_a_network(name: str) -> None:
    model = networks.network(name).eval()
    inputs = torch.randn(2, 3, 32, 32)
    settle(model)
    count = kill(model, inputs)
    found = compacted(model, example_inputs=inputs)
    assert found.channels == (0 if name in SLICED else count)
    assert name not in SLICED or "dead channels stay" in found.notes[0]
    assert found.difference <= 1e-5
    if found.channels:
        assert found.parameters[1] < found.parameters[0]
    with torch.no_grad():
        assert torch.allclose(found.model(inputs), model(inputs), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (
            "ResNetForImageClassification",
            {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1], "num_labels": 3},
        ),
        ("MobileNetV2ForImageClassification", {"depth_multiplier": 0.1, "num_labels": 3, "image_size": 32}),
    ],
)
def test_models_of_transformers(kind: str, config: dict[str, Any], tmp_path: Any) -> None:
    from sparsify import load, save

    torch.manual_seed(0)
    model = of_transformers(kind)(of_transformers(kind).config_class(**config)).eval()
    settle(model)
    assert kill(model)
    found = compacted(model)
    assert found.channels
    assert found.parameters[1] < 0.7 * found.parameters[0]
    again = load(save(found.model, tmp_path / "small"))
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(again(pixels).logits, model(pixels).logits, atol=1e-4)


def test_a_shift_that_is_left_keeps_a_channel() -> None:
    """A border of zeros makes it no constant: it cannot go into the next bias."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3, padding=1),
        nn.Flatten(),
        nn.Linear(4 * 36, 2),
    ).eval()
    settle(model)
    with torch.no_grad():
        model[0].weight[2] = 0
        model[0].bias[2] = 0
    inputs = torch.randn(2, 3, 8, 8)
    assert compacted(model, example_inputs=inputs).channels == 0
    with torch.no_grad():
        model[1].weight[2] = model[1].bias[2] = 0
    assert compacted(model, example_inputs=inputs).channels == 1


def test_a_recipe_from_masks_to_a_smaller_network() -> None:
    torch.manual_seed(0)
    model = of_transformers("ResNetForImageClassification")(
        of_transformers("ResNetConfig")(embedding_size=8, hidden_sizes=[8, 16], depths=[2, 1], num_labels=3)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    recipe = Recipe.load("channels-coupled")
    manager = Manager(recipe).apply(model, optimizer, total_steps=60)
    for step in range(60):
        manager.on_step_begin()
        pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(step))
        model(pixel_values=pixels, labels=torch.arange(4) % 3).loss.backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        optimizer.zero_grad()
        manager.on_step_end()
    manager.finalize()
    found = compacted(model.eval())
    assert found.channels > 0
    assert found.parameters[1] < 0.8 * found.parameters[0]
    aligned = compacted(model, align=4)
    wide = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    narrow = [m.out_channels for m in aligned.model.modules() if isinstance(m, nn.Conv2d)]
    assert all(now % 4 == 0 or now == before for now, before in zip(narrow, wide, strict=True))
    assert aligned.parameters[1] >= found.parameters[1]


def test_an_unknown_network_by_tracing() -> None:
    torch.manual_seed(0)

    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.first(x))
            return self.last(x + torch.relu(self.second(x)))

    model = Mine().eval()
    with torch.no_grad():
        for layer in (model.first, model.second):
            layer.weight[3] = 0
            layer.bias[3] = 0
    found = compacted(model)
    assert found.channels == 1
    assert found.model.last.in_features == 15
