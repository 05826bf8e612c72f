"""Layers whose product is the engine's: the same module, name and keys of a state; only its class is another."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparsify.engine.operator import NO_GRADIENTS, sparse_linear
from sparsify.engine.packed import check, unpack
from sparsify.errors import KernelError

PACKED = "sparsify_packed"
"""The buffer with the packed weight; it is in no state."""

CHANGED = (
    "call sparsify.engine.restore(model) before changing weights or loading a state, and accelerate(model) after it"
)
NOTED = "_sparsify_packed_at"
"""An attribute of a weight: its version when it was packed."""

TAKES = (torch.float32, torch.bfloat16, torch.float16)


class Sparse(nn.Module):
    """What sparse layers share. Instances are made of dense layers by `to_sparse`, and undone by `to_dense`."""

    sparsify_dense: type[nn.Module]
    sparsify_trained: bool
    sparsify_activation: str
    sparsify_packed: Tensor
    weight: Any
    """The dense weight; on the meta device where it was let go."""

    bias: Any
    transposed: ClassVar[bool] = False
    """Whether the weight is stored as [inputs, outputs]."""

    def dense_weight(self) -> Tensor:
        """Return the dense weight as it is stored."""
        weight: Tensor = self.weight
        if not weight.is_meta:
            return weight.detach()
        dense = unpack(self.sparsify_packed)
        return (dense.t().contiguous() if self.transposed else dense).view(weight.shape).to(weight.dtype)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.weight.is_meta:
            destination[f"{prefix}weight"] = self.dense_weight()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *others: Any) -> None:
        if f"{prefix}weight" in state_dict and self.weight.is_meta:
            raise KernelError(f"{prefix}weight is packed, and nothing can be loaded into it: {CHANGED}")
        super()._load_from_state_dict(state_dict, prefix, *others)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move or cast; a weight that was let go has nothing to move, but takes the type."""
        weight: Tensor = self.weight
        if not weight.is_meta:
            return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        wanted = fn(torch.empty(0, dtype=weight.dtype)).dtype
        parameters, others = self._parameters, {k: v for k, v in self._parameters.items() if k != "weight"}
        self._parameters = others
        try:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        finally:
            made = nn.Parameter(weight.to(wanted), requires_grad=False)
            self._parameters = {name: made if name == "weight" else others[name] for name in parameters}
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Multiply in float32, whatever the input's type; the output has that type, or autocast's where it is on."""
        if torch.is_grad_enabled() and x.requires_grad:
            raise KernelError(NO_GRADIENTS)
        if x.device.type != "cpu" or x.dtype not in TAKES:
            raise KernelError(f"sparse layers take float32, bfloat16 or float16 on the CPU; got {x.dtype}, {x.device}")
        if not torch.compiler.is_compiling() and _has_changed(self.weight):
            raise KernelError(f"a weight was changed after it had been packed: {CHANGED}")
        bias = self.bias
        if bias is not None and bias.dtype != torch.float32:
            bias = bias.float()
        if not torch.is_autocast_enabled("cpu"):
            return self.product(x, bias) if x.dtype == torch.float32 else self.product(x.float(), bias).to(x.dtype)
        with torch.autocast("cpu", enabled=False):
            return self.product(x.float(), bias).to(torch.get_autocast_dtype("cpu"))

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return the outputs for inputs of float32."""
        return sparse_linear(x, self.sparsify_packed, bias, rows_of(self), self.sparsify_activation)


class SparseLinear(Sparse, nn.Linear):
    """An `nn.Linear` whose product is the engine's."""

    def extra_repr(self) -> str:
        """Show what an ordinary layer shows, and the kernels."""
        return f"{nn.Linear.extra_repr(self)}, height={check(self.sparsify_packed).height}"


def rows_of(module: nn.Module) -> int:
    """Return how many outputs a sparse layer has: of `nn.Linear`, a convolution, or transformers' Conv1D."""
    made: Any = module
    return int(getattr(made, "out_features", None) or getattr(made, "out_channels", None) or made.nf)


def to_sparse(
    module: nn.Module, packed: Tensor, sparse_class: type[Sparse], activation: str = "none", keep_dense: bool = True
) -> None:
    """Make a dense layer sparse, in place; its weight gets no gradient, and stays or is let go."""
    weight: Any = module._parameters["weight"]
    dense = type(module)
    trained = bool(weight.requires_grad)
    module.register_buffer(PACKED, packed, persistent=False)
    weight.requires_grad_(False)
    module.__class__ = sparse_class
    made: Any = module
    made.sparsify_dense, made.sparsify_trained, made.sparsify_activation = dense, trained, activation
    if not keep_dense:
        module._parameters["weight"] = nn.Parameter(weight.detach().to("meta"), requires_grad=False)
    else:
        _note(weight)


def to_dense(module: nn.Module) -> bool:
    """Make a sparse layer dense again, in place; returns whether it was sparse."""
    if not isinstance(module, Sparse):
        return False
    dense, trained = module.sparsify_dense, module.sparsify_trained
    if module.weight.is_meta:
        module._parameters["weight"] = nn.Parameter(module.dense_weight(), trained)
    for name in [name for name in vars(module) if name.startswith("sparsify_")]:
        del vars(module)[name]
    module._buffers.pop(PACKED, None)
    module._non_persistent_buffers_set.discard(PACKED)
    weight = module.weight
    given_back: Any = module
    given_back.__class__ = dense
    if isinstance(weight, nn.Parameter):
        weight.requires_grad_(trained)
        vars(weight).pop(NOTED, None)
    return True


def _note(weight: Tensor) -> None:
    """Note on a weight what torch counts whenever a tensor is changed in place; it does not in inference mode."""
    if not weight.is_inference():
        setattr(weight, NOTED, weight._version)


def _has_changed(weight: Tensor) -> bool:
    """Whether a weight was changed since the note; a copy of a model has none yet."""
    if weight.is_inference():
        return False
    if not hasattr(weight, NOTED):
        _note(weight)
    return bool(getattr(weight, NOTED) != weight._version)
