"""Integers with scales: how far they are off, and what stays zero, or does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsify.errors import StateError
from sparsify.storage import PackedFile, integers, pack
from sparsify.storage.coding import decode, encode
from tests.storage.drawn import same, tensors

KINDS = {"int8": 127, "int4": 7}


@settings(max_examples=200)
@given(
    tensors((torch.float32, torch.bfloat16, torch.float16)), st.sampled_from(list(KINDS)), st.sampled_from((1, 7, 64))
)
def test_zero_stays_zero_and_everything_else_is_near(tensor: Tensor, kind: str, group: int) -> None:
    coded = encode(tensor, level=3, value_type=kind, group=group)
    back = decode(coded.stored, b"".join(coded.planes))
    if not bool(torch.isfinite(tensor).all()):
        assert coded.stored.exact
        assert same(back, tensor)
        return
    if tensor.dtype == torch.float16 and coded.stored.exact:  # near its largest number a step would go beyond it
        assert float(tensor.abs().max()) > 60000
        assert same(back, tensor)
        return
    assert (coded.stored.value_type, back.dtype, back.shape) == (kind, tensor.dtype, tensor.shape)
    assert bool((back[tensor == 0] == 0).all())
    assert coded.error is not None
    assert int(((back == 0) & (tensor != 0)).sum()) == coded.error.became_zero
    largest = float(tensor.double().abs().max()) if tensor.numel() else 0.0
    if largest > 1e-30:
        change = float((back.double() - tensor.double()).abs().max())
        assert change == pytest.approx(coded.error.largest * largest, rel=1e-6)
        one_step = largest / KINDS[kind] * 1.01
        assert change <= one_step + float(torch.finfo(tensor.dtype).eps) * largest, (
            "a step of the largest group at most"
        )


def test_rounding_is_to_the_nearest_and_scales_are_not_exceeded() -> None:
    torch.manual_seed(0)
    for kind, most in KINDS.items():
        values = torch.randn(1000) * torch.logspace(-3, 3, 1000)
        found = integers.cut(values, kind, 50)
        scales = (found.scales.astype(np.uint32) << 16).view(np.float32)
        assert len(scales) == 20
        largest = values.view(20, 50).abs().max(1).values.double().numpy()
        assert (scales.astype(np.float64) * most >= largest).all()
        assert (scales.astype(np.float64) * most <= largest * (1 + 2**-7)).all(), "rounded up to the next bfloat16"
        wanted = values.double().view(20, 50).numpy() / scales.astype(np.float64)[:, None]
        far = np.abs(found.integers.reshape(20, 50) - wanted)
        assert (far[np.abs(wanted) >= 0.5] <= 0.5 + 1e-12).all()
        assert (np.abs(found.integers) >= 1).all(), "what is not zero does not become zero"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_ends_of_the_range(dtype: torch.dtype) -> None:
    """The largest numbers stay exact where a scale that is rounded up would make them infinite; the smallest stay."""
    limits = torch.finfo(dtype)
    for size in (limits.max, limits.tiny, limits.smallest_normal / 2**4):
        tensor = torch.tensor([size, -size / 2, 0.0, size / 3], dtype=dtype)
        coded = encode(tensor, value_type="int8", group=4)
        back = decode(coded.stored, b"".join(coded.planes))
        assert bool(torch.isfinite(back).all())
        assert same(back, tensor) or (not coded.stored.exact and torch.equal(back == 0, tensor == 0))


@given(st.lists(st.integers(-7, 7), max_size=9))
def test_four_bits_come_back(numbers: list[int]) -> None:
    ints = np.array(numbers, np.int8)
    data = integers.to_bytes(ints, "int4")
    assert len(data) == integers.byte_count(len(ints), "int4")
    assert integers.from_bytes(data, "int4", len(ints)).tolist() == numbers


def test_which_tensors_become_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 64) * (torch.rand(64, 64) < 0.1)
    state = {
        "embed.weight": torch.randn(10, 64), "a.weight": weight, "a.bias": torch.randn(64), "b.weight": weight.double(),
        "c.weight": torch.full((4, 4), float("inf")), "steps": torch.arange(12).view(3, 4),
    }  # fmt: skip
    summary = pack(state, tmp_path / "packed", values="int8", group=32)
    packed = PackedFile(tmp_path / "packed")
    assert [name for name in state if not packed.info(name).exact] == ["a.weight"]
    for name, tensor in state.items():
        assert same(packed.tensor(name), tensor) == (name != "a.weight")
    assert [note.split()[0] for note in summary.notes] == ["b.weight", "c.weight", "steps"]
    rows = packed.csr("a.weight")
    assert rows.values.dtype == torch.int8
    assert rows.scales is not None
    assert len(rows.scales) == -(-len(rows.values) // 32)
    assert torch.equal(rows.to_torch().to_dense(), packed.tensor("a.weight"))
    pack(state, tmp_path / "packed", values="int4", embeddings=True)
    assert [name for name in state if not PackedFile(tmp_path / "packed").info(name).exact] == [
        "embed.weight",
        "a.weight",
    ]


def test_settings_are_checked(tmp_path: Path) -> None:
    for wrong in ({"values": "int5"}, {"group": 0}, {"level": 23}):
        with pytest.raises(StateError, match=next(iter(wrong))):
            pack({"a": torch.ones(2)}, tmp_path / "packed", **wrong)  # type: ignore[arg-type]
