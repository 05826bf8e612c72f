"""Every bit comes back, whatever it is, in whatever layout."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsify.errors import StateError
from sparsify.storage import PackedFile, pack
from sparsify.storage.coding import Coded, decode, encode
from sparsify.storage.planes import bits_of, join, split
from tests.storage.drawn import FLOATS, bits, same, tensors


@settings(max_examples=300)
@given(tensors(), st.sampled_from((1, 3, 19)))
def test_tensors_come_back_bit_for_bit(tensor: Tensor, level: int) -> None:
    coded = encode(tensor, level=level)
    assert coded.stored.exact
    assert same(decode(coded.stored, b"".join(coded.planes)), tensor)
    assert coded.nonzeros == int(bits(tensor).count_nonzero()) or tensor.dtype == torch.complex64
    assert sum(map(len, coded.planes)) <= tensor.numel() * tensor.element_size() + 64, "never larger than it was"


@settings(max_examples=60)
@given(tensors(FLOATS))
def test_rows_are_those_of_the_dense_tensor(tensor: Tensor) -> None:
    if not tensor.dim():
        return
    with TemporaryDirectory() as folder:
        pack({"a": tensor}, Path(folder, "packed"), level=3)
        rows = PackedFile(Path(folder, "packed")).csr("a")
    dense = bits(tensor).view(tensor.shape[0], -1) if tensor.numel() else torch.zeros(tensor.shape[0], 0)
    assert len(rows.starts) == tensor.shape[0] + 1
    for row, (begin, end) in enumerate(zip(rows.starts[:-1], rows.starts[1:], strict=True)):
        columns = dense[row].nonzero().view(-1) if dense.numel() else torch.empty(0, dtype=torch.int64)
        assert torch.equal(rows.columns[begin:end].long(), columns)
        if len(columns):
            assert torch.equal(bits(rows.values[begin:end].clone()), dense[row][columns])


@given(st.integers(0, 3).map(lambda place: (2, 4, 8, 8)[place]), st.integers(0, 2**32), st.integers(0, 200))
def test_planes_are_joined_to_what_was_split(size: int, seed: int, count: int) -> None:
    data = np.random.default_rng(seed).integers(0, 256, size * count, dtype=np.uint8).view(f"u{size}")
    planes = split(data)
    assert [len(plane) for plane in planes] == [count] * size
    assert np.array_equal(join(planes), data)


def test_the_first_plane_is_the_exponent() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        numbers = torch.tensor([1.0, -1.0, 2.0, 0.25, -0.0], dtype=dtype)
        assert split(bits_of(numbers))[0].tolist() == [127, 127, 128, 125, 0]


LAYOUTS = {
    "dense": torch.randn(4096, generator=torch.Generator().manual_seed(0)),
    "raw": torch.randn(64, generator=torch.Generator().manual_seed(0)).repeat(64),
    "bitmap": torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).clamp(min=0),
    "gaps": torch.where(torch.rand(1 << 14, generator=torch.Generator().manual_seed(0)) < 0.01, 1.5, 0.0),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_smallest_layout_is_taken(layout: str) -> None:
    coded = encode(LAYOUTS[layout])
    assert coded.stored.layout == layout
    assert same(decode(coded.stored, b"".join(coded.planes)), LAYOUTS[layout])


def test_more_than_a_piece_in_every_layout() -> None:
    """Positions are read in pieces of 2¹⁸: numbers at their borders, and gaps that reach over them."""
    size = (1 << 18) * 2 + 11
    for places in (
        [0, 1, size - 1],
        [(1 << 18) - 1, 1 << 18],
        [size // 2],
        list(range(0, size, 997)),
        list(range(size)),
    ):
        tensor = torch.zeros(size, dtype=torch.bfloat16)
        tensor[places] = torch.arange(1, len(places) + 1).to(torch.bfloat16)
        coded: Coded = encode(tensor, level=3)
        assert same(decode(coded.stored, b"".join(coded.planes)), tensor)
    mask = torch.rand(size, generator=torch.Generator().manual_seed(0)) < 0.3
    for tensor in (torch.randn(size).masked_fill(mask, 0), torch.randn(size).masked_fill(~mask, 0)):
        coded = encode(tensor, level=3)
        assert same(decode(coded.stored, b"".join(coded.planes)), tensor)


def test_ties_are_stored_once_and_equal_tensors_are_not(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(50, 16)
            self.head = nn.Linear(16, 50, bias=False)
            self.head.weight = self.embed.weight
            self.copy = nn.Linear(16, 50, bias=False)
            self.copy.weight.data.copy_(self.embed.weight)

    state = Tied().state_dict()
    state["turned"] = state["embed.weight"].t()  # the same memory, but not the same tensor
    summary = pack(state, tmp_path / "packed")
    packed = PackedFile(tmp_path / "packed")
    assert packed.keys() == list(state)
    assert [row.name for row in summary.rows] == ["embed.weight", "copy.weight", "turned"]
    assert packed.info("head.weight") is packed.info("embed.weight")
    assert len({named.stored for named in packed.header.tensors}) == 3
    for name, tensor in state.items():
        assert same(packed.tensor(name), tensor.contiguous()), name


def test_what_cannot_be_packed_is_refused(tmp_path: Path) -> None:
    cases = {
        "meta": torch.empty(3, device="meta"),
        "sparse_coo": torch.eye(3).to_sparse(),
        "complex128": torch.zeros(2, dtype=torch.complex128),
    }
    for word, tensor in cases.items():
        with pytest.raises(StateError, match=rf"a\.b.*{word}"):
            pack({"a.b": tensor}, tmp_path / "packed")
    for odd in ({"a": 1}, {1: torch.ones(2)}):
        with pytest.raises(StateError, match="only tensors by name"):
            pack(odd, tmp_path / "packed")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir()), "nothing is half written"
