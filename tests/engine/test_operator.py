"""The operator in torch: checked, compiled, exported; what it refuses; threads and forks; damaged weights."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import KernelError
from sparsify.engine import build, library, pack, sparse_linear, unpack
from sparsify.engine.packed import about, check, from_rows
from tests.engine.test_numbers import sparse

WEIGHT = sparse(40, 60, 0.2)


class Product(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("packed", pack(WEIGHT))
        self.packed: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(sparse_linear(x * 2, self.packed, None, 40, "gelu"))


def test_opcheck_passes() -> None:
    for bias, shape in ((None, (2, 0, 60)), (torch.randn(40), (3, 60))):
        torch.library.opcheck(torch.ops.sparsify.linear.default, (torch.randn(shape), pack(WEIGHT), bias, 40))
    assert sparse_linear(torch.randn(60), pack(WEIGHT), None, 40).shape == (40,)


@pytest.mark.filterwarnings("ignore")
def test_it_is_exported_and_traced_whole() -> None:
    model, x = Product(), torch.randn(2, 7, 60)
    wanted = model(x)
    exported = torch.export.export(model, (x,), dynamic_shapes={"x": {1: torch.export.Dim("tokens", min=2, max=64)}})
    assert torch.equal(exported.module()(x), wanted)
    assert torch.equal(exported.module()(x[:, :3]), model(x[:, :3]))
    traced = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        assert torch.equal(traced(x), wanted)


def test_gradients_are_refused_with_a_sentence() -> None:
    x = torch.randn(3, 60, requires_grad=True)
    with pytest.raises(KernelError, match="compute no gradients"):
        torch.ops.sparsify.linear(x, pack(WEIGHT), None, 40).sum().backward()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.randn(3, 59), pack(WEIGHT), None, 40), "of another shape"),
        ((torch.randn(3, 60), pack(WEIGHT), None, 41), "of another shape"),
        ((torch.randn(3, 60), pack(WEIGHT), torch.randn(39), 40), "the bias is"),
        ((torch.randn(3, 60).double(), pack(WEIGHT), None, 40), "multiplies float32"),
        ((torch.randn(3, 60), pack(WEIGHT)[:-64], None, 40), "damaged"),
        ((torch.randn(3, 60), torch.zeros(640, dtype=torch.uint8), None, 40), "damaged"),
        ((torch.randn(3, 60), pack(WEIGHT), None, 40, 17), "an activation is none"),
        ((torch.randn(3, 60), pack(WEIGHT), None, 40, 0, 99), "lacks the instructions"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: Any, words: str) -> None:
    with pytest.raises(KernelError, match=words):
        torch.ops.sparsify.linear(*arguments)


def test_inputs_need_not_be_contiguous() -> None:
    packed, x = pack(WEIGHT), torch.randn(60, 9)
    assert torch.equal(sparse_linear(x.t(), packed, None, 40), sparse_linear(x.t().contiguous(), packed, None, 40))


def test_two_threads_may_use_one_weight() -> None:
    packed = pack(sparse(600, 200, 0.1))
    inputs = [torch.randn(100 + each, 200) for each in range(6)]
    wanted = [sparse_linear(x, packed, None, 600) for x in inputs]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)

        def repeated(place: int) -> bool:
            return all(torch.equal(sparse_linear(inputs[place], packed, None, 600), wanted[place]) for _ in range(15))

        with ThreadPoolExecutor(6) as threads:
            assert all(threads.map(repeated, range(6)))
    finally:
        torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own() -> None:
    packed, x = pack(sparse(600, 200, 0.1)), torch.randn(150, 200)
    y = torch.empty(150, 600)

    def product() -> bool:  # by the library itself: torch's own threads do not survive a fork
        library.checked(
            library.library().sparsify_linear(
                packed.data_ptr(), packed.numel(), 600, 200, 0, x.data_ptr(), 150, None, 0, y.data_ptr(), 3, 0
            )
        )
        return True

    assert product()
    before = y.numpy().tobytes()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if product() and y.numpy().tobytes() == before else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert product()


def test_every_bit_of_a_packed_weight_is_checked() -> None:
    packed = pack(sparse(20, 40, 0.3), 2)
    assert check(packed) == about(packed)
    assert (about(packed).rows, about(packed).columns, about(packed).height) == (20, 40, 2)
    for place in [*range(64), *range(64, len(packed), 37)]:
        damaged = packed.clone()
        damaged[place] ^= 1 << place % 8
        with pytest.raises(KernelError, match="damaged"):
            unpack(damaged)


def test_a_matrix_by_rows_is_packed_without_a_dense_one() -> None:
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), (WEIGHT != 0).sum(1).cumsum(0)])
    made = from_rows((40, 60), starts, WEIGHT.nonzero()[:, 1], WEIGHT[WEIGHT != 0])
    assert torch.equal(made, pack(WEIGHT))
    with pytest.raises(KernelError, match="do not ascend"):
        from_rows((2, 4), torch.tensor([0, 2, 2]), torch.tensor([3, 1]), torch.ones(2))
    with pytest.raises(KernelError, match="a column lies outside"):
        from_rows((2, 4), torch.tensor([0, 1, 2]), torch.tensor([3, 4]), torch.ones(2))
    with pytest.raises(KernelError, match="are no"):
        from_rows((2, 4), torch.tensor([0, 1]), torch.tensor([3]), torch.ones(1))


def test_what_is_missing_is_said(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    library._opened.cache_clear()
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    try:
        assert "was not compiled: run `python -m sparsify.engine.build`" in str(library.missing())
        (tmp_path / build.LIBRARY).write_bytes(b"no library")
        library._opened.cache_clear()
        assert "cannot be opened" in str(library.missing())
        with pytest.raises(KernelError, match="the sparse engine does not work here"):
            pack(WEIGHT)
    finally:
        library._opened.cache_clear()


def test_a_library_of_other_sources_is_refused(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in [*build.sources(), build.FOLDER / build.LIBRARY]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert build.is_current(tmp_path)
    (tmp_path / "task.h").write_text("// another\n")
    assert not build.is_current(tmp_path)
    library._opened.cache_clear()
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    try:
        assert "compiled from other sources" in str(library.missing())
    finally:
        library._opened.cache_clear()


def test_a_build_that_fails_leaves_nothing(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.cpp").write_text("this is no C++\n")
    with pytest.raises(RuntimeError, match="failed"):
        build.compile_library(folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.cpp"]
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match=r"there is no no-such-compiler \(CXX\)"):
        build.compile_library(folder=tmp_path)
