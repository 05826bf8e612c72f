"""The engine's attention with masks: which keys count, in whatever way a mask lies, and what is not looked at."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsify import KernelError
from sparsify.engine.attention import attend
from tests.engine.attention import SETS, inputs

SHAPES = [
    (1, 1, 1, 1, 4),
    (2, 3, 7, 5, 20),
    (2, 2, 40, 40, 16),
    (1, 2, 64, 128, 64),
    (2, 2, 70, 33, 32),
    (1, 1, 130, 300, 8),
]
"""(batch, heads, queries, keys, width)."""

Sizes = tuple[int, int, int, int]


def lengths(sizes: Sizes) -> Tensor:
    """Return how many keys each text has, from one to all, as [batch, 1, 1, 1]."""
    return torch.linspace(1, sizes[3], sizes[0]).long().view(-1, 1, 1, 1)


def random(*sizes: int) -> Tensor:
    """Return a mask in which a quarter is true."""
    return torch.rand(sizes, generator=torch.Generator().manual_seed(sum(sizes))) < 0.25


KINDS: dict[str, Callable[[Sizes], Tensor]] = {
    "padding": lambda s: torch.arange(s[3]) < lengths(s),
    "padding on the left": lambda s: torch.arange(s[3]) >= s[3] - lengths(s),
    "padding, as transformers give it": lambda s: (
        (torch.arange(s[3]) < lengths(s)).expand(s[0], 1, *s[2:]).contiguous()
    ),
    "causal, after a cache": lambda s: torch.ones(1, 1, *s[2:], dtype=torch.bool).tril(s[3] - s[2]),
    "a window": lambda s: torch.ones(s[2:], dtype=torch.bool).tril(3).triu(-3),
    "any": lambda s: random(*s),
    "any, the same for all heads": lambda s: random(s[0], 1, s[2], s[3]),
    "any keys": lambda s: random(1, s[3]),
    "any queries": lambda s: random(s[2], 1),
    "all": lambda s: torch.ones(1, 1, 1, 1, dtype=torch.bool),
    "none": lambda s: torch.zeros(s, dtype=torch.bool),
    "turned": lambda s: random(*s[:2], s[3], s[2]).transpose(2, 3),
    "every other": lambda s: random(s[0], s[1], 2 * s[2] + 1, 2 * s[3] + 1)[:, :, 1::2, 1::2],
    "a part": lambda s: random(s[0], s[1], s[2] + 3, s[3] + 7)[:, :, 2:-1, 5:-2],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_as_exact_as_torch(kind: str, shape: tuple[int, int, int, int, int]) -> None:
    q, k, v = inputs(*shape)
    mask = KINDS[kind](shape[:4])
    wanted, size = (
        functional.scaled_dot_product_attention(q.double(), k.double(), each, attn_mask=mask, scale=0.3)
        for each in (v.double(), v.double().abs())
    )
    by_torch = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3)
    whole = mask.expand(shape[:4]).contiguous()
    lonely = ~whole.any(-1)
    assert not by_torch[lonely].any()
    for instructions in SETS:
        found = attend(q, k, v, 0.3, mask=mask, instructions=instructions).transpose(1, 2)
        errors = [
            float(((each - wanted).abs() / size)[~lonely].amax()) if not lonely.all() else 0.0
            for each in (found, by_torch)
        ]
        assert errors[0] <= 2 * errors[1] + 1e-7, "in units of the weights by the size of values"
        assert not found[lonely].any(), "who attends to nothing gets zeros, as in torch"
        assert torch.equal(attend(q, k, v, 0.3, mask=whole, instructions=instructions).transpose(1, 2), found)


@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("shape", [*SHAPES, (1, 1, 200, 70, 8), (1, 2, 129, 129, 4)])
def test_causal_is_a_mask(shape: tuple[int, ...], instructions: int) -> None:
    q, k, v = inputs(*shape)
    below = torch.ones(shape[2:4], dtype=torch.bool).tril()
    found = attend(q, k, v, 0.3, causal=True, instructions=instructions)
    assert torch.equal(found, attend(q, k, v, 0.3, mask=below, instructions=instructions))
    wanted = functional.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=True, scale=0.3)
    assert torch.allclose(found.transpose(1, 2).double(), wanted, atol=2e-6)
    more = KINDS["any"]((shape[0], shape[1], shape[2], shape[3]))
    both = attend(q, k, v, 0.3, mask=more, causal=True, instructions=instructions)
    assert torch.equal(both, attend(q, k, v, 0.3, mask=more & below, instructions=instructions))


@pytest.mark.parametrize("instructions", SETS)
def test_heads_may_share_keys(instructions: int) -> None:
    q, k, v = inputs(2, 6, 70, 33, 16)
    k, v = k[:, :2], v[:, 1:3]
    for mask in (None, KINDS["padding"]((2, 6, 70, 33)), KINDS["any"]((2, 6, 70, 33))):
        wanted = functional.scaled_dot_product_attention(
            q.double(), k.double(), v.double(), attn_mask=mask, scale=0.3, enable_gqa=True
        )
        found = attend(q, k, v, 0.3, mask=mask, instructions=instructions)
        assert torch.allclose(found.transpose(1, 2).double(), wanted, atol=2e-6)
        each = [every.repeat_interleave(3, 1) for every in (k, v)]
        assert torch.equal(attend(q, *each, 0.3, mask=mask, instructions=instructions), found)


@pytest.mark.parametrize("instructions", SETS)
def test_padding_is_not_looked_at(instructions: int) -> None:
    """Not a bit of the output tells a padded text from one without padding, whatever lies there."""
    q, k, v = inputs(1, 2, 70, 40, 8)
    wanted = attend(q, k[:, :, 5:29], v[:, :, 5:29], 0.5, instructions=instructions)
    seen = (torch.arange(40) >= 5) & (torch.arange(40) < 29)
    for each in (0.0, 3e38, float("inf"), float("nan")):
        for tensor in (k, v):
            tensor[:, :, ~seen] = each
        for mask in (seen, seen.expand(1, 1, 70, 40).contiguous()):
            assert torch.equal(attend(q, k, v, 0.5, mask=mask, instructions=instructions), wanted)


@pytest.mark.parametrize("instructions", SETS)
def test_what_some_queries_do_not_attend_to_counts_for_nothing(instructions: int) -> None:
    q, k, v = inputs(1, 2, 70, 70, 8)
    wanted = attend(q, k, v, 0.5, causal=True, instructions=instructions)
    k[:, :, 30], v[:, :, 30] = float("nan"), 3e38
    found = attend(q, k, v, 0.5, causal=True, instructions=instructions)
    assert torch.equal(found[:, :30], wanted[:, :30]), "keys after a query are not those that it may see"
    assert found[:, 30:].isnan().all()
    v[:, :, 30] = float("nan")
    found = attend(q, k, v, 0.5, causal=True, instructions=instructions)
    assert found[:, 30:].isnan().all()
    k[:, :, 69], v[:, :, 69] = 0, float("inf")
    assert attend(q, k, v, 0.5, causal=True, instructions=instructions)[:, :30].isnan().equal(found[:, :30].isnan())


def test_threads_change_no_bit_and_calls_may_meet() -> None:
    q, k, v = inputs(2, 3, 150, 90, 32)
    mask = KINDS["any"]((2, 3, 150, 90))
    before, wanted = torch.get_num_threads(), attend(q, k, v, 0.5, mask=mask)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(attend(q, k, v, 0.5, mask=mask), wanted)
            with ThreadPoolExecutor(3) as pool:
                found = pool.map(lambda _: attend(q, k, v, 0.5, mask=mask), range(12))
                assert all(torch.equal(each, wanted) for each in found)
    finally:
        torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore")
def test_the_operator_is_checked_exported_and_traced() -> None:
    q, k, v = inputs(2, 4, 20, 9, 8)
    mask = KINDS["padding"]((2, 4, 20, 9))
    for more in ((mask,), (mask.expand(2, 4, 20, 9), True), (None, True)):
        torch.library.opcheck(torch.ops.sparsify.attention.default, (q, k[:, :2], v[:, :2], 0.5, *more))

    class Product(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
            return torch.relu(attend(q * 2, k, v, 0.5, mask=mask, causal=True))

    given = q, k, v, mask
    wanted = Product()(*given)
    tokens = torch.export.Dim("tokens", min=2, max=64)
    sizes = ({2: tokens}, {2: tokens}, {2: tokens}, {3: tokens})
    square = tuple(each[:, :, :9] for each in (q, k, v))
    exported = torch.export.export(Product(), (*square, mask), dynamic_shapes=sizes).module()
    assert torch.equal(exported(*square, mask), Product()(*square, mask))
    shorter = (*(each[:, :, :6] for each in (q, k, v)), mask[..., :6])
    assert torch.equal(exported(*shorter), Product()(*shorter))
    with torch.inference_mode():
        assert torch.equal(torch.compile(Product(), fullgraph=True, backend="aot_eager")(*given), wanted)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.zeros(2, 1, 20, 9), r"a mask of bool .* \(2, 1, 20, 9\) of torch.float32"),
        (torch.ones(2, 1, 20, 9, dtype=torch.uint8), "a mask of bool"),
        (torch.ones(2, 1, 20, 8, dtype=torch.bool), "a mask of bool that expands to"),
        (torch.ones(2, 2, 20, 9, dtype=torch.bool), "a mask of bool that expands to"),
        (torch.ones(1, 2, 3, 20, 9, dtype=torch.bool), "a mask of bool that expands to"),
        (torch.ones(0, dtype=torch.bool), "a mask of bool that expands to"),
    ],
)
def test_other_masks_are_refused(mask: Tensor, words: str) -> None:
    given: Any = inputs(2, 3, 20, 9, 8)
    with pytest.raises(KernelError, match=words):
        attend(*given, 0.5, mask=mask)
