"""Masks by parameter: who owns which rows, and rows that are latent beside rows that are not."""

from __future__ import annotations

import pytest
import torch

from sparsify import Manager, Recipe
from sparsify.masking.masks import Masks, outside
from tests.competing import weight_of
from tests.layers import KINDS
from tests.loop import masks_of


def test_rows_have_owners() -> None:
    weight = weight_of("a", torch.rand(12, 4))
    masks = Masks()
    kept = torch.ones(4, 4, dtype=torch.bool)
    for start, owner in ((0, "one"), (4, "one"), (8, "two")):
        masks.set(weight.rows(start, start + 4), kept, owner)
    assert masks.owned(weight.rows(0, 8), "one")
    assert masks.owned(weight.rows(2, 6), "one")
    assert masks.owned(weight.rows(8, 12), "two")
    assert not masks.owned(weight, "one")
    assert not masks.owned(weight.rows(6, 10), "one")
    assert not masks.owned(weight.rows(8, 12), "one")
    masks.set(weight.rows(2, 4), torch.ones(2, 4, dtype=torch.bool), "two")
    assert not masks.owned(weight.rows(0, 8), "one")
    assert masks.owned(weight.rows(4, 8), "one")


def test_a_gap_is_nobodys() -> None:
    weight = weight_of("a", torch.rand(12, 4))
    masks = Masks()
    masks.set(weight.rows(4, 8), torch.zeros(4, 4, dtype=torch.bool), "one")
    masks.set(weight.rows(8, 12), torch.ones(4, 4, dtype=torch.bool), "one")
    assert not masks.owned(weight, "one")
    assert not masks.owned(weight.rows(2, 6), "one")
    assert masks.pruned([weight]) == 16
    assert masks.pruned([weight.rows(0, 4)]) == 0


def test_what_is_let_go_is_free_and_has_no_owner() -> None:
    weight = weight_of("a", torch.rand(8, 4))
    masks = Masks()
    for start in (0, 4):
        masks.set(weight.rows(start, start + 4), torch.zeros(4, 4, dtype=torch.bool), "one")
    masks.release(weight.rows(0, 4))
    assert not masks.owned(weight.rows(0, 4), "one")
    assert masks.pruned([weight]) == 16
    masks.release(weight.rows(4, 8))
    assert weight not in masks
    masks.release(weight)


def test_a_new_mask_of_some_rows_is_written_again() -> None:
    weight = weight_of("a", torch.rand(8, 4))
    masks = Masks()
    masks.set(weight.rows(0, 4), torch.ones(4, 4, dtype=torch.bool), "one")
    (masked,) = masks
    masked.stale = False
    masks.set(weight.rows(4, 8), torch.zeros(4, 4, dtype=torch.bool), "two")
    assert masked.stale


@pytest.mark.parametrize(
    ("cut", "left"),
    [
        ((0, 10), []),
        ((0, 4), [(4, 8)]),
        ((3, 5), [(2, 3), (5, 8)]),
        ((6, 9), [(2, 6)]),
        ((8, 9), [(2, 8)]),
        ((0, 2), [(2, 8)]),
    ],
)
def test_what_lies_outside(cut: tuple[int, int], left: list[tuple[int, int]]) -> None:
    assert outside((2, 8), cut) == left


def test_rows_beside_latent_ones_are_masked_in_the_optimizers_step() -> None:
    """Queries learn in the same fused matrix whose values are pruned for good."""
    kind = KINDS["GPT-2"]
    model = kind.build()
    text = (
        "version: 1\nmodifiers:\n"
        "  - {type: prune, name: values, targets: attention.value, sparsity: {to: 0.5, curve: one-shot}, window: {begin: 1}}\n"
        "  - {type: prune, name: queries, targets: attention.query, criterion: movement, sparsity: 0.5,"
        " window: {begin: 1, end: 8}}\n"
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    manager = Manager(Recipe.parse(text)).apply(model, optimizer, total_steps=10)
    for step in range(10):
        kind.step(model, optimizer, manager, step)
        for name, mask in masks_of(manager).items():
            assert not bool(model.get_parameter(name)[~mask].any())
    assert manager.finalize().targeted.sparsity == pytest.approx(0.5)
