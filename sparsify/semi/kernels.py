"""torch's 2:4 kernels: which of the two there are, what they take, and how long something takes on the device.

Everything that needs CUDA is behind `Kernels`, so that what is built on it can be run without.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sparsify.errors import KernelError

RUNS = 10
"""Calls between two events: a single one is over before the next is launched, and only the launch would be measured."""

FIRST_CAPABILITY = (8, 0)
"""The first compute capability with sparse tensor cores."""


@dataclass(frozen=True)
class Sizes:
    """Rows and columns of a weight must be multiples of these, and no fewer."""

    rows: int
    columns: int


class Kernels(Protocol):
    """What a conversion needs of a backend."""

    @property
    def name(self) -> str:
        """What a table calls it."""

    def sizes(self, dtype: torch.dtype) -> Sizes | None:
        """Return what the sizes of a weight must be; None for a dtype that has no kernels."""

    def dtypes(self) -> list[str]:
        """Return the dtypes that linear layers may have."""

    def unfit(self, weight: Tensor) -> str:
        """Return why a weight cannot be used where it is; empty where it can."""

    def compress(self, weight: Tensor) -> Tensor:
        """Return a dense weight [out, in] that is 2:4 as the kernels have it."""

    def dense(self, weight: Tensor) -> Tensor:
        """Return a compressed weight as an ordinary tensor."""

    def is_sparse(self, weight: Tensor) -> bool:
        """Whether a tensor is one that `compress` returned."""

    def seconds(self, run: Callable[[], object]) -> float:
        """Return how long one call takes on the device."""


class TorchKernels:
    """cuSPARSELt where torch has it, else CUTLASS, by the classes behind `torch.sparse.to_sparse_semi_structured`."""

    def __init__(self, device: torch.device) -> None:
        sparse: Any = torch.sparse
        self._device = device
        self._root = sparse.SparseSemiStructuredTensor
        cusparselt = not self._root._FORCE_CUTLASS and _has_cusparselt()
        self._class = (
            sparse.SparseSemiStructuredTensorCUSPARSELT if cusparselt else sparse.SparseSemiStructuredTensorCUTLASS
        )

    @property
    def name(self) -> str:
        """The card and the backend."""
        return f"{torch.cuda.get_device_name(self._device)}, {self._class.BACKEND}"

    def sizes(self, dtype: torch.dtype) -> Sizes | None:
        """Return what torch's table says: cuSPARSELt takes multiples of 16 × 16, CUTLASS of 32 × 64 (float32: 32)."""
        found = self._class._DTYPE_SHAPE_CONSTRAINTS.get(dtype) if _multiplies(dtype) else None
        return None if found is None else Sizes(found.sparse_min_rows, found.sparse_min_cols)

    def dtypes(self) -> list[str]:
        """Return float16 and bfloat16, and with CUTLASS float32."""
        return [short(dtype) for dtype in self._class._DTYPE_SHAPE_CONSTRAINTS if _multiplies(dtype)]

    def unfit(self, weight: Tensor) -> str:
        """Return that it is not on this card, or that the card is too old."""
        if not weight.is_cuda:
            return f"on the {weight.device.type.upper()}"
        if weight.device != self._device:
            return f"on {weight.device}, while the others are tried on {self._device}"
        capability = torch.cuda.get_device_capability(weight.device)
        if capability < FIRST_CAPABILITY:
            return f"compute capability {capability[0]}.{capability[1]}: sparse tensor cores begin with 8.0"
        return ""

    def compress(self, weight: Tensor) -> Tensor:
        """Return a weight in torch's own form; its warning that this is a prototype is left to the documentation."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The PyTorch API of SparseSemiStructuredTensor")
            found: Tensor = self._class.from_dense(weight.detach().contiguous())
        return found

    def dense(self, weight: Tensor) -> Tensor:
        """Return it multiplied by the identity, as torch does."""
        found: Tensor = weight.detach().to_dense()
        return found

    def is_sparse(self, weight: Tensor) -> bool:
        """Whether it is one of torch's semi-structured tensors."""
        return isinstance(weight, self._root)

    def seconds(self, run: Callable[[], object]) -> float:
        """Return the time between two events around some calls, for one call: what is felt, launches included."""
        with torch.cuda.device(self._device):
            event: Any = torch.cuda.Event
            begin, end = event(enable_timing=True), event(enable_timing=True)
            torch.cuda.synchronize()
            begin.record()
            for _ in range(RUNS):
                run()
            end.record()
            torch.cuda.synchronize()
            return float(begin.elapsed_time(end)) / 1000 / RUNS


def of_torch(device: torch.device) -> TorchKernels:
    """Return torch's kernels for a device. Raises KernelError where there are none."""
    if device.type != "cuda":
        raise KernelError(
            f"the model is on the {device.type.upper()}, and torch's 2:4 kernels are for CUDA alone. On a CPU zeros of "
            "2:4 save no time in torch; what helps there: heads and neurons that leave (`sparsify compact`), or fewer "
            "layers (`layer_drop`)"
        )
    return TorchKernels(device)


def short(dtype: torch.dtype) -> str:
    """Return a dtype's name without torch's."""
    return str(dtype).removeprefix("torch.")


def _multiplies(dtype: torch.dtype) -> bool:
    """Whether a linear layer can have such a weight: integers and eight-bit floats only multiply with scales."""
    return dtype.is_floating_point and dtype.itemsize > 1


def _has_cusparselt() -> bool:
    backend = getattr(torch.backends, "cusparselt", None)
    return backend is not None and bool(backend.is_available())
