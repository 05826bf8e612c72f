"""Channels that must die together: one network for each way in which they are coupled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify.structure.channels.check import Check
from sparsify.structure.channels.data import Channels, ChannelSet, Side
from sparsify.structure.channels.inputs import given
from sparsify.structure.channels.twin import settle, twin
from sparsify.structure.graph import channels
from tests.networks import NETWORKS, Wired, network

SETS: dict[str, dict[str, tuple[int, str]]] = {
    "plain": {"one": (8, "one"), "two": (6, "two")},
    "add": {"stem.0": (8, "stem.0 block.1.0"), "block.0.0": (6, "block.0.0")},
    "concat": {"stem.0": (8, "stem.0"), "grow.0": (4, "grow.0"), "join.0": (6, "join.0")},
    "chunk": {
        "cv1.0[0:6]": (6, "cv1.0"),
        "cv1.0[6:12]": (6, "cv1.0 m.1.0"),
        "m.0.0": (6, "m.0.0"),
        "cv2.0": (8, "cv2.0"),
    },
    "depthwise": {"expand.0": (12, "expand.0 depth.0"), "project.0": (8, "project.0")},
    "grouped": {"first.0": (4, "first.0 groups.0"), "last.0": (8, "last.0")},
    "flatten": {"stem.0": (8, "stem.0"), "hidden": (10, "hidden")},
    "squeeze": {"stem.0": (12, "stem.0 up"), "down": (4, "down"), "last.0": (8, "last.0")},
    "unet": {"left.0": (8, "left.0"), "low.0": (12, "low.0"), "right.0": (8, "right.0")},
    "shuffled": {
        "one.0[0:4]": (4, "one.0"),
        "one.0[4:8]": (4, "one.0"),
        "two.0[0:4]": (4, "two.0"),
        "two.0[4:8]": (4, "two.0"),
        "left.0": (4, "left.0"),
        "right.0": (4, "right.0"),
    },
    "upsample": {"first": (6, "first"), "up": (8, "up"), "last": (10, "last")},
    "norms": {"one": (4, "one"), "two": (6, "two")},
    "uneven": {"one.0": (8, "one.0 two.0")},
}
"""Name of a set → number of groups, the layers that compute them."""


def image(channels: int = 3, side: int = 16) -> Tensor:
    """Return two images, always the same."""
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(3))


def outputs_of(each: ChannelSet) -> str:
    return " ".join(side.name.removesuffix(".weight") for side in each.sides if side.kind == "output")


@pytest.mark.parametrize("name", SETS)
def test_what_must_die_together(name: str) -> None:
    found = channels(network(name))
    assert {each.name: (each.count, outputs_of(each)) for each in found.sets} == SETS[name]
    assert found.whole == {"head.weight": "its channels are the model's output"}
    assert found.unseen == ()


# ---------------------------------------------------------------------- it is exact: dead channels can be cut out


def settled(name: str) -> Wired:
    """Return a network whose norms have statistics, in evaluation mode."""
    model = network(name)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
        settle(model, lambda: model(image()))
    return model.eval()


def killed(model: nn.Module, found: Channels) -> None:
    """Zero what computes the first half of every set's groups."""
    with torch.no_grad():
        for each in found.sets:
            for side in each.dying:
                places = side.places[side.groups < each.count // 2]
                model.get_parameter(side.name).index_fill_(side.axis, places, 0.0)


def cut(model: nn.Module, found: Channels) -> None:
    """Take the first half of every set's groups out of every tensor, whatever its kind."""
    gone: dict[tuple[str, int], Tensor] = {}
    for each in found.sets:
        for side in each.sides:
            places = side.places[side.groups < each.count // 2]
            gone[side.name, side.axis] = torch.cat([gone.get((side.name, side.axis), places[:0]), places])
    for (name, axis), places in gone.items():
        owner, _, attribute = name.rpartition(".")
        module = model.get_submodule(owner)
        tensor = getattr(module, attribute).detach()
        keep = torch.ones(tensor.shape[axis], dtype=torch.bool)
        keep[places] = False
        small = tensor.index_select(axis, keep.nonzero().flatten())
        setattr(module, attribute, nn.Parameter(small) if attribute in module._parameters else small)
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.groups = module.groups * len(small) // len(tensor)
        if isinstance(module, nn.GroupNorm) and attribute == "weight":
            module.num_groups = module.num_groups * len(small) // len(tensor)
            module.num_channels = len(small)
        if isinstance(module, nn.InstanceNorm2d):
            module.num_features = len(small)


@pytest.mark.parametrize("name", [*(each for each in SETS if each != "uneven"), "yolo"])
def test_dead_channels_can_be_cut_out(name: str) -> None:
    """The graph is whole: what is left after all its slices are taken away computes the same, and is smaller."""
    found = channels(network(name))
    model, small = settled(name), settled(name)
    small.load_state_dict(model.state_dict())
    killed(model, found)
    killed(small, found)
    cut(small, found)
    before, after = (sum(parameter.numel() for parameter in each.parameters()) for each in (model, small))
    assert after < 0.75 * before
    with torch.no_grad():
        wanted = model(image())
        assert torch.allclose(small(image()), wanted, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(settled(name)(image()), wanted, rtol=1e-2)


# ---------------------------------------------------------------------- what is not offered, and why


class Standard(nn.Conv2d):
    """A convolution whose weight is computed from its parameter."""

    def forward(self, x: Tensor) -> Tensor:
        """Return what the standardised weight makes of x."""
        return nn.functional.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), None, 1, 1)


class LayerNorm(nn.LayerNorm):
    """Over the channels of images."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x, normed."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _between(middle: Callable[[Wired, Tensor], Tensor], **more: Any) -> Wired:
    def wiring(m: Wired, x: Tensor) -> Tensor:
        x = middle(m, m.one(x))  # type: ignore[operator]
        return m.head(torch.relu(m.two(x)).mean((2, 3)))  # type: ignore[operator,no-any-return]

    torch.manual_seed(0)
    more = {"one": nn.Conv2d(3, 8, 3, padding=1), "two": nn.Conv2d(8, 6, 3), "head": nn.Linear(6, 3), **more}
    made = Wired(wiring, **more)
    made.middle = middle
    return made


def _written(m: Wired, x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :4] = torch.sort(x[:, 4:], 1).values
    return x


REFUSED: dict[str, tuple[Callable[[], Wired], str]] = {
    "sigmoid": (lambda: _between(lambda m, x: torch.sigmoid(x)), "two reads what a dead channel leaves: not zero"),
    "softmax": (lambda: _between(lambda m, x: x.softmax(1)), "_softmax mixes its channels"),
    "layer norm": (lambda: _between(lambda m, x: m.norm(x), norm=LayerNorm(8)), "norm: the norm mixes all channels"),
    "mean": (lambda: _between(lambda m, x: x - x.mean(1, keepdim=True)), "mean mixes its channels"),
    "sort": (lambda: _between(lambda m, x: x.sort(1).values), "sort is not followed"),
    "written into": (lambda: _between(_written), "is not followed"),
    "numbers": (lambda: _between(lambda m, x: x * torch.arange(8.0).view(1, -1, 1, 1)), "cannot die"),
    "no scale": (
        lambda: _between(lambda m, x: m.norm(x), norm=nn.BatchNorm2d(8, affine=False)),
        "norm shifts by what is no parameter of its own",
    ),
    "computed weight": (
        lambda: _between(lambda m, x: m.std(x), std=Standard(8, 8, 3)),
        "std: a layer whose weight is computed is not followed",
    ),
    "transposed in groups": (
        lambda: _between(lambda m, x: x, one=nn.ConvTranspose2d(3, 9, 2, 2, groups=3), two=nn.Conv2d(9, 6, 3)),
        "is a transposed convolution in groups, which is not followed",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_die_says_why(name: str) -> None:
    build, reason = REFUSED[name]
    found = channels(build())
    assert "one" not in [each.name for each in found.sets]
    assert reason in found.whole["one.weight"]
    assert "two" in [each.name for each in found.sets]  # the rest is offered


def test_a_gate_for_all_channels_stays_and_they_do_not() -> None:
    found = channels(_between(lambda m, x: x * torch.sigmoid(m.gate(x)), gate=nn.Conv2d(8, 1, 1)))
    assert [each.name for each in found.sets] == ["one", "two"]
    assert "gate: " not in found.whole["gate.weight"]
    assert "acts on many channels at once" in found.whole["gate.weight"]


def test_what_the_forward_does_not_use_is_said() -> None:
    assert channels(_between(lambda m, x: x, spare=nn.Conv2d(3, 3, 1))).unseen == ("spare.weight", "spare.bias")


# ---------------------------------------------------------------------- the numeric check


def _changed(sets: tuple[ChannelSet, ...], change: Callable[[Side], Side | None]) -> list[ChannelSet]:
    return [
        ChannelSet(each.name, each.count, tuple(new for side in each.sides if (new := change(side)) is not None))
        for each in sets
    ]


def _shifted(name: str, axis: int = 0) -> Callable[[Side], Side | None]:
    """Along one dimension of one tensor channels are taken for their neighbours."""

    def change(side: Side) -> Side | None:
        if (side.name, side.axis) != (name, axis):
            return side
        return Side(side.name, side.axis, side.kind, side.places, (side.groups + 1) % (int(side.groups.max()) + 1))

    return change


def _without(*sides: str) -> Callable[[Side], Side | None]:
    """Sides are forgotten: tensors that compute or norm channels, or with `:1` what reads them."""
    return lambda side: None if f"{side.name}:{side.axis}" in sides else side


WRONG: dict[str, tuple[str, Callable[[Side], Side | None], set[str]]] = {
    "a sum with the wrong rows": ("add", _shifted("block.1.0.weight"), {"stem.0"}),
    "a sum without one side": (
        "add",
        _without("block.1.0.weight:0", "block.1.1.weight:0", "block.1.1.bias:0"),
        {"stem.0"},
    ),
    "a shift that stays": ("add", _without("block.1.1.bias:0"), {"stem.0"}),
    "a reader forgotten": ("add", _without("head.weight:1"), {"stem.0"}),
    "a reader of both": ("concat", _without("join.0.weight:1"), {"stem.0", "grow.0"}),
    "the wrong rows of a half": ("chunk", _shifted("m.1.0.weight"), {"cv1.0[6:12]"}),
    "the wrong filters": ("depthwise", _shifted("depth.0.weight"), {"expand.0"}),
    "the wrong columns": ("depthwise", _shifted("project.0.weight", 1), {"expand.0"}),
    "the wrong groups": ("grouped", _shifted("groups.0.weight"), {"first.0"}),
    "the wrong places": ("flatten", _shifted("hidden.weight", 1), {"stem.0"}),
    "the wrong scales": ("norms", _shifted("group.weight"), {"one"}),
    "the wrong skip": ("unet", _shifted("right.0.weight", 1), {"left.0", "low.0"}),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_graph_is_refused(case: str) -> None:
    name, change, wrong = WRONG[case]
    model = network(name)
    right = channels(model)
    made = twin(model)
    inputs = given(image())
    with torch.no_grad():
        settle(made, lambda: inputs.run(made))
    assert Check(made, inputs, 60).refused(right.sets) == {}
    before = {key: value.clone() for key, value in made.state_dict().items()}
    found = Check(made, inputs, 60).refused(_changed(right.sets, change))
    assert set(found) == wrong
    assert all(torch.equal(value, before[key]) for key, value in made.state_dict().items())


def test_what_does_not_matter_is_not_verified() -> None:
    found = channels(_between(lambda m, x: x * 1e-12))
    assert "does not matter to the outputs" in found.whole["one.weight"]


# ---------------------------------------------------------------------- the model itself


def test_the_model_is_left_as_it_is() -> None:
    model = network("squeeze").train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.register_forward_hook(lambda *_: pytest.fail("the model was run"))
    torch.manual_seed(5)
    random = torch.get_rng_state()
    found = channels(model)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert channels(network("squeeze")) is found  # kept by structure
    with torch.device("meta"):
        bare = NETWORKS["squeeze"]()
    assert {each.name for each in channels(bare).sets} == {each.name for each in found.sets}


def test_models_that_differ_in_their_forward_alone_are_told_apart() -> None:
    one, other = (_between(middle) for middle in (lambda m, x: x, lambda m, x: torch.sigmoid(x)))
    assert [len(channels(each).sets) for each in (one, other)] == [2, 1]


def test_dropout_and_branches_of_the_training_do_no_harm() -> None:
    found = channels(_between(lambda m, x: m.drop(x), drop=nn.Dropout2d(0.9)))
    assert [each.name for each in found.sets] == ["one", "two"]


HUGGING = {
    "resnet": ("ResNetForImageClassification", {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2], "layer_type": "bottleneck"}, 9),
    "regnet": ("RegNetForImageClassification", {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2], "groups_width": 8}, 9),
    "mobilenet-v1": ("MobileNetV1ForImageClassification", {"depth_multiplier": 0.25}, 14),
    "mobilenet-v2": ("MobileNetV2ForImageClassification", {"depth_multiplier": 0.25}, 25),
    "convnext": ("ConvNextForImageClassification", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}, 2),
    "efficientnet": (
        "EfficientNetForImageClassification",
        {"image_size": 32, "width_coefficient": 0.25, "depth_coefficient": 0.1, "hidden_dim": 320},
        22,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HUGGING)
def test_models_of_transformers(name: str) -> None:
    import transformers

    kind, config, count = HUGGING[name]
    torch.manual_seed(0)
    model = getattr(transformers, kind)
    found = channels(model(model.config_class(**config)))
    assert len(found.sets) == count
    if name != "convnext":  # whose stream goes through layer norms
        assert set(found.whole.values()) == {"its channels are the model's output"}
