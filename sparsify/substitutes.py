"""Modules that take the place of others, bit by bit: norms that become NoNorm, activations that become ReLU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

BEFORE, BETWEEN, AFTER = "before", "between", "after"
RECORD = "sparsify_no_norms"
"""The field of a configuration with the names of the norms that are NoNorm, where no field of its own can say so."""

_EPSILONS = ("eps", "variance_epsilon", "epsilon", "norm_eps")


class Substitute(nn.Module):
    """Computes what another module did, then something between that and its own function, then only its own."""

    share: Tensor

    def __init__(self, old: Any, device: torch.device | None = None) -> None:
        super().__init__()
        self._old: tuple[Any, ...] = () if old is None else (old,)
        """What stood here; in a tuple, so that it is no part of the model."""

        self.phase = AFTER if old is None else BEFORE
        self.register_buffer("share", torch.zeros(3, device=device), persistent=False)

    @property
    def opens(self) -> bool:
        """Whether what stood here before is known."""
        return bool(self._old)

    @property
    def replaced(self) -> str:
        """The class, or function, that stood here."""
        old = self._old[0] if self._old else self
        return str(getattr(old, "__name__", type(old).__name__))

    def blend(self, row: Tensor) -> None:
        """Take up λ, beside it a mean and a variance; float [3]. λ is 0 up to the window and below 1 within it."""
        if self.share.dtype != torch.float32:  # the model was converted; λ is not to be rounded
            self.share = torch.zeros(3, device=self.share.device)
        self.share.copy_(row)
        self.phase = BETWEEN if float(row[0]) > 0 else BEFORE

    def close(self) -> None:
        """Compute only the new function from now on."""
        self.phase = AFTER

    @torch.no_grad()
    def follow(self, other: Substitute) -> None:
        """Compute what another of the same kind does, which an average of weights is a copy of.

        Weights that were folded there since have another scale now: an average over both is of neither, and begins
        anew with those of the other.
        """
        if other.phase == AFTER and self.phase != AFTER:
            for mine, theirs in zip(self.parameters(recurse=False), other.parameters(recurse=False), strict=True):
                mine.copy_(theirs)
        self.share = other.share.to(self.share.device, copy=True)
        self.phase = other.phase


class Gradual(Substitute):
    """An activation on its way to ReLU: y = (1 − λ)·f(x) + λ·max(x, 0). Source: nn_pruning's GeLU2ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the activations, of x's shape and dtype."""
        if self.phase == AFTER:
            return x.relu()
        y: Tensor = self._old[0](x)
        if self.phase == BEFORE:
            return y
        return y + self.share[0].to(y.dtype) * (nn.functional.relu(x) - y)


class NoNorm(Substitute):
    """A norm on its way to y = w·x + b: its mean and variance become constants, which then go into w and b.

    y = w·(x − μ′) / √(σ′² + ε) + b with μ′ = (1 − λ)·μ(x) + λ·m, σ′² = (1 − λ)·σ²(x) + λ·v; m and v are scalars, the
    averages over all tokens of late. Norms without a mean (RMSNorm), or without a bias to put it in, have m = 0.
    `marked` weights are saved as [1, n]: whoever takes them for those of a norm fails instead of computing one.
    Sources: nn_pruning's Layer2NoNorm; Sun et al., "MobileBERT" (2020).
    """

    weight: Any
    bias: Any

    def __init__(self, norm: nn.Module, kind: str = "layer", eps: float = 0.0, *, marked: bool, done: bool) -> None:
        old = None if done else bare(norm)
        weight: Any = norm._parameters["weight"]
        super().__init__(old, weight.device)
        self.weight, self.kind, self.eps, self.marked, self.gathers = weight, kind, eps, marked, False
        self.register_parameter("bias", norm._parameters.get("bias"))
        self.sums = torch.zeros(3, device=weight.device)
        """Of the forwards of this step: the means over tokens of μ and σ², and their number. No buffer, for DDP would
        put those of the first process into the others before every forward."""

        if old is not None:
            vars(old)["_parameters"] = self._parameters
        vars(self).update({name: value for name, value in vars(norm).items() if "_hooks" in name})
        self.training = norm.training

    def forward(self, x: Tensor) -> Tensor:
        """Return x scaled, of x's shape."""
        if self.phase == AFTER:
            scaled: Tensor = x * self.weight
            return scaled if self.bias is None else scaled + self.bias
        gathers = self.gathers and torch.is_grad_enabled()
        if self.phase == BEFORE and not gathers:
            return self._old[0](x)  # type: ignore[no-any-return]
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        mean = wide.mean(-1, keepdim=True) if self.kind == "layer" else None
        spread = (wide if mean is None else wide - mean).square().mean(-1, keepdim=True)
        if gathers:
            with torch.no_grad():
                middle = spread.new_zeros(()) if mean is None or self.bias is None else mean.mean()
                self.sums.add_(torch.stack((middle, spread.mean(), spread.new_ones(()))).to(self.sums.dtype))
        if self.phase == BEFORE:
            return self._old[0](x)  # type: ignore[no-any-return]
        share, m, v = self.share.to(wide.dtype).unbind()
        if mean is not None:
            wide = wide - torch.lerp(mean, m.expand_as(mean), share)
        y = wide * torch.rsqrt(torch.lerp(spread, v.expand_as(spread), share) + self.eps) * self.weight
        y = y if self.bias is None else y + self.bias
        return y.to(torch.result_type(x, self.weight))  # type: ignore[no-any-return]

    def gather(self, gathers: bool) -> None:
        """Begin to sum, or end it: what was summed is gone."""
        if self.gathers or gathers:
            self.sums = self.sums.to(self.weight.device).zero_()
        self.gathers = gathers and self.phase != AFTER

    @torch.no_grad()
    def fold(self, m: float, v: float) -> None:
        """Put the constants into weight and bias, and be done: what is computed for λ = 1 does not change."""
        scale = (v + self.eps) ** -0.5
        if self.bias is not None:
            self.bias.copy_(self.bias - self.weight * (m * scale))
        self.weight.copy_(self.weight * scale)
        self.close()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.marked and self.weight.dim() == 1:
            destination[f"{prefix}weight"] = destination[f"{prefix}weight"].unsqueeze(0)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        saved = state_dict.get(f"{prefix}weight")
        if self.marked and saved is not None and saved.numel() == self.weight.numel() == saved.shape[-1]:
            state_dict[f"{prefix}weight"] = saved.reshape(self.weight.shape)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def bare(module: nn.Module) -> nn.Module:
    """Return a module of the same class, parameters and attributes, without hooks."""
    made = object.__new__(type(module))
    fresh = vars(nn.Module())
    vars(made).update(
        {name: fresh.get(name, value) if "_hooks" in name else value for name, value in vars(module).items()}
    )
    return made


def is_norm(module: nn.Module) -> bool:
    """Whether a module is called a norm, and has a weight of its own."""
    named = "norm" in type(module).__name__.lower() and not isinstance(module, NoNorm)
    return named and module._parameters.get("weight") is not None and not module._modules


def function_of(norm: nn.Module) -> tuple[str, float] | None:
    """Return what a norm computes (`layer` or `rms`) and its ε, found by trying it; None for anything else."""
    weight, bias = norm._parameters.get("weight"), norm._parameters.get("bias")
    others = set(norm._parameters) - {"weight", "bias"} or any(b is not None for b in norm._buffers.values())
    if weight is None or weight.dim() != 1 or others:
        return None
    eps = next((e for name in _EPSILONS if isinstance(e := getattr(norm, name, None), float) and e > 0), None)
    if eps is None:
        return None
    probe, generator = bare(norm), torch.Generator().manual_seed(0)
    w, b = (torch.rand(len(weight), generator=generator, device="cpu") + 0.5 for _ in range(2))
    vars(probe)["_parameters"] = {"weight": nn.Parameter(w), "bias": None if bias is None else nn.Parameter(b)}
    noise = torch.randn(2, 3, len(weight), generator=generator, device="cpu") + 0.5
    try:
        with torch.no_grad(), torch.device("cpu"):
            found = [probe.forward(noise * scale) for scale in (1.0, 1e-3)]
    except Exception:  # whatever a module does with inputs that are none of its own
        return None
    for kind in ("layer", "rms"):
        wanted = [_normed(noise * scale, kind, eps) * w + (0 if bias is None else b) for scale in (1.0, 1e-3)]
        if all(
            isinstance(one, Tensor) and one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-4)
            for one, other in zip(found, wanted, strict=True)
        ):
            return kind, eps
    return None


def _normed(x: Tensor, kind: str, eps: float) -> Tensor:
    if kind == "layer":
        x = x - x.mean(-1, keepdim=True)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def put(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of another, under all names that this one has."""
    parent, _, attribute = path.rpartition(".")
    old = getattr(model.get_submodule(parent), attribute)
    for above in [each for each in model.modules() if not isinstance(each, Substitute)]:
        for name, value in list(above._modules.items()):
            if value is old and isinstance(old, nn.Module):
                above._modules[name] = module
    setattr(model.get_submodule(parent), attribute, module)


def saved_class(kind: type[Any], config: Any) -> type[Any]:
    """Return a class like `kind` whose models have NoNorm where a configuration says that they were saved with it."""
    names: Sequence[str] = getattr(config, RECORD, None) or ()
    if not names:
        return kind

    def make(self: Any, config: Any, *arguments: Any, **more: Any) -> None:
        kind.__init__(self, config, *arguments, **more)
        prefix = f"{getattr(self, 'base_model_prefix', '')}."
        there = dict(self.named_modules())
        for name in names:
            path = next((p for p in (name, name.removeprefix(prefix), prefix + name) if p in there), None)
            if path is not None:
                norm = there[path]
                weight: Any = norm._parameters["weight"]
                norm._parameters["weight"] = nn.Parameter(weight.detach().unsqueeze(0))  # as it is saved
                put(self, path, NoNorm(norm, marked=True, done=True))

    return type(kind.__name__, (kind,), {"__init__": make, "__module__": kind.__module__})
