"""Modules that compute the same have the same settings, and no others."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsify.layers import settings


class Net(nn.Module):
    def __init__(self, **held: Any) -> None:
        super().__init__()
        self.inner = held.pop("inner", None) or nn.LayerNorm(4)
        self.held = held


def scaled(by: float) -> Any:
    return lambda x: x * by


ORDERS = [torch.tensor([0, 1, 2, 3]), torch.tensor([0, 2, 1, 3])]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("gelu", "relu"),
        (0.5, 0.25),
        (True, 1),
        ([1, "a"], [1, "b"]),
        ({"norm": "pre"}, {"norm": "post"}),
        (functional.gelu, functional.relu),
        (partial(functional.softmax, dim=1), partial(functional.softmax, dim=2)),
        (scaled(1), scaled(2)),
        (SimpleNamespace(flag=False), SimpleNamespace(flag=True)),
        (torch.float16, torch.float32),
        tuple(ORDERS),
    ],
)
def test_what_differs_is_seen(one: Any, other: Any) -> None:
    assert settings(Net(value=one)) == settings(Net(value=one))
    assert settings(Net(value=one)) != settings(Net(value=other))


def test_classes_within_count() -> None:
    assert settings(Net(inner=nn.LayerNorm(4))) != settings(Net(inner=nn.BatchNorm1d(4)))
    assert settings(Net(inner=nn.GELU())) != settings(Net(inner=nn.GELU("tanh")))


def test_long_configurations_are_read_to_their_end() -> None:
    from transformers import BertConfig

    labels = {number: f"label {number}" for number in range(200)}
    made = [BertConfig(id2label=labels, zeal=zeal) for zeal in (1, 2)]
    assert settings(Net(value=made[0])) != settings(Net(value=made[1]))


def test_weights_modes_and_places_do_not_count() -> None:
    one, other = Net(value=1), Net(value=1)
    with torch.no_grad():
        other.inner.weight.add_(1)
    other.train(not one.training)
    other.inner.layer_idx, other.inner.drop_prob = 3, 0.3
    assert settings(one, places=False) == settings(other, places=False)
    assert settings(one) != settings(other)


def test_what_holds_itself_is_read() -> None:
    knot = SimpleNamespace()
    knot.self = knot
    assert settings(Net(value=knot)) == settings(Net(value=knot))


class Shuffled(nn.Module):
    """A channel shuffle by a table of numbers."""

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order)


def test_orders_are_told_apart_and_statistics_are_not() -> None:
    """Of two models that differ in a table alone, the second must not be given the first one's answer."""
    assert settings(Shuffled(ORDERS[0])) == settings(Shuffled(ORDERS[0].clone()))
    assert settings(Shuffled(ORDERS[0])) != settings(Shuffled(ORDERS[1]))
    one, other = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    other.running_mean += 1  # type: ignore[operator]
    assert settings(one) == settings(other)
