"""torch's 2:4 form on the CPU: its own layout and dispatch, with the product replaced by an ordinary one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.sparse import SparseSemiStructuredTensorCUTLASS
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from sparsify.semi.kernels import Sizes


class OnCPU(SparseSemiStructuredTensorCUTLASS):
    """A weight as CUTLASS stores it; products unpack it first."""

    BACKEND = "cpu"

    def _mm(
        self, other: Tensor, *, bias: Tensor | None = None, should_transpose_dense: bool = False, **_: Any
    ) -> Tensor:
        weight = self.to_dense()
        product = other @ weight.T if should_transpose_dense else weight @ other
        return product if bias is None else product + bias

    def to_dense(self) -> Tensor:
        return sparse_semi_structured_to_dense_cutlass(self.packed, self.meta)


class CPUKernels:
    """Kernels whose times are given: seconds by (dense?, outputs, inputs), else dense 2, sparse 1."""

    name = "cpu, in a test"

    def __init__(self, times: Callable[[bool], float] | None = None) -> None:
        self.times = times or (lambda sparse: 1.0 if sparse else 2.0)
        self.order: list[bool] = []
        """Which were timed, in turn: True for sparse."""

        self.rows: list[int] = []

    def sizes(self, dtype: torch.dtype) -> Sizes | None:
        return Sizes(32, 64) if dtype in (torch.float16, torch.bfloat16) else None

    def dtypes(self) -> list[str]:
        return ["float16", "bfloat16"]

    def unfit(self, weight: Tensor) -> str:
        return ""

    def compress(self, weight: Tensor) -> Tensor:
        packed, meta = sparse_semi_structured_from_dense_cutlass(weight.detach())
        return OnCPU(weight.shape, packed, meta, None, None, None)

    def dense(self, weight: Tensor) -> Tensor:
        found: Tensor = weight.detach().to_dense()
        return found

    def is_sparse(self, weight: Tensor) -> bool:
        return isinstance(weight, OnCPU)

    def seconds(self, run: Callable[[], object]) -> float:
        cells = {cell.cell_contents for cell in run.__closure__ or () if isinstance(cell.cell_contents, Tensor)}
        sparse = any(isinstance(each, OnCPU) for each in cells)
        output = run()
        assert isinstance(output, Tensor)
        self.order.append(sparse)
        self.rows.append(len(output))
        return self.times(sparse)


def two_of_four(weight: Tensor) -> None:
    """Keep the two largest of every four inputs, in place."""
    groups = weight.view(-1, 4)
    groups.scatter_(1, groups.abs().argsort(1)[:, :2], 0)


class Net(nn.Module):
    """Layers of every sort: one that qualifies twice over, and one for each reason why not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(64, 128)
        self.second = nn.Linear(128, 64, bias=False)
        self.dense = nn.Linear(64, 64)
        self.narrow = nn.Linear(64, 40)
        self.short = nn.Linear(40, 64)
        self.table = nn.Embedding(32, 64)
        self.tied = nn.Linear(64, 32, bias=False)
        self.tied.weight = self.table.weight
        self.apart = nn.utils.parametrizations.weight_norm(nn.Linear(64, 64))
        self.attention = nn.MultiheadAttention(64, 2)
        self.bfloat16()
        self.single = nn.Linear(64, 64)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Linear) and module is not self.dense and module is not self.apart:
                    two_of_four(module.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(self.table(tokens))))
