"""Which kernels were chosen for each layer, as plain data: to be shown, saved, and made again in another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sparsify import choices
from sparsify.errors import KernelError
from sparsify.escaping import one_line, quoted

FORMAT = 1
DENSE = "dense"
KERNELS = {"unstructured": 1, "2x1": 2, "4x1": 4}
"""Rows that share their columns, by kernel; `dense` is torch's own product."""

COLUMNS = ("layer", "shape", "zeros", "tokens", "dense µs", "sparse µs", "faster", "kernel", "why")


@dataclass(frozen=True)
class Choice:
    """A linear layer or a convolution, and what multiplies by its weight."""

    layer: str
    shape: tuple[int, int]
    """Outputs and inputs; those of a convolution are channels × places of its kernel."""

    kernel: str = DENSE
    why: str = ""
    """Why it stays dense; empty where it does not."""

    activation: str = "none"
    """The activation that its kernel takes; `fused` is the module that took it before."""

    fused: str = ""
    norm: str = ""
    """The batch norm between it and the activation that its kernel takes, too."""

    zeros: float | None = None
    """The fraction of its weights that is zero."""

    tokens: int | None = None
    """Rows of the input, or places of a convolution's outputs, for which it was tried; None without a trial."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    """The shortest time of a product, by kernel."""

    @property
    def sparse(self) -> bool:
        """Whether the engine multiplies by its weight."""
        return self.kernel != DENSE

    @property
    def best(self) -> str | None:
        """The fastest of the sparse kernels; None where none was tried."""
        return min((name for name in self.seconds if name != DENSE), key=lambda name: self.seconds[name], default=None)

    @property
    def faster(self) -> float | None:
        """How many times faster than dense the best sparse kernel was; None without a trial."""
        if self.best is None or not self.seconds.get(DENSE):
            return None
        return self.seconds[DENSE] / self.seconds[self.best]


@dataclass(frozen=True)
class Chosen:
    """All linear layers and convolutions of a model."""

    layers: tuple[Choice, ...]
    where: str
    """The instruction set, and how many threads."""

    attention: bool = False
    """Whether the engine computes attention, where it can."""

    attention_faster: float | None = None
    """How many times as fast as torch's it was; None without a trial, and where the model has no use for it."""

    @property
    def sparse(self) -> tuple[str, ...]:
        """The layers that the engine multiplies."""
        return choices.sparse(self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, fit for JSON."""
        layers = [{**asdict(choice), "seconds": dict(choice.seconds)} for choice in self.layers]
        return {
            "format": FORMAT, "engine": "sparse", "where": self.where, "layers": layers,
            "attention": self.attention, "attention_faster": self.attention_faster,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Any) -> Chosen:
        """Read what `to_dict` returned. Raises KernelError for anything else."""
        said = isinstance(data, Mapping) and data.get("format") == FORMAT and data.get("engine") == "sparse"
        if not said or not isinstance(data.get("layers"), list):
            raise KernelError(
                "choices of the engine are what `Chosen.to_dict()` returns: format, engine, where, layers"
            )
        faster = data.get("attention_faster")
        return cls(
            tuple(_choice(each) for each in data["layers"]), str(data.get("where", "")), data.get("attention") is True,
            faster if isinstance(faster, float) else None,
        )  # fmt: skip

    def table(self) -> str:
        """Return a table for a terminal, a line a layer."""
        table = choices.table(COLUMNS, [_row(choice) for choice in self.layers], len(self.sparse), self.where)
        if not self.attention and self.attention_faster is None:
            return table
        tried = f" (ours is {self.attention_faster:.2f}× as fast)" if self.attention_faster is not None else ""
        return f"{table}\nattention {'is the engine' if self.attention else 'stays torch'}'s{tried}"

    def __str__(self) -> str:
        return self.table()


def _choice(data: Any) -> Choice:
    if not isinstance(data, Mapping) or not isinstance(data.get("layer"), str):
        raise KernelError(f"a layer of choices has a name (`layer`); got {quoted(data)}")
    name, shape, kernel = data["layer"], choices.shape_of(data), data.get("kernel")
    if kernel != DENSE and kernel not in KERNELS:
        known = ", ".join((DENSE, *KERNELS))
        raise KernelError(f"choices: {one_line(name)} has kernel {quoted(kernel)} (one of: {known})")
    said = data.get("seconds")
    seconds = said if isinstance(said, Mapping) else {}
    times = {str(key): value for key, value in seconds.items() if isinstance(value, float)}
    words = {key: data[key] for key in ("why", "activation", "fused", "norm") if isinstance(data.get(key), str)}
    zeros, tokens = data.get("zeros"), data.get("tokens")
    return Choice(
        name, shape, kernel, **words, zeros=zeros if isinstance(zeros, float) else None,
        tokens=tokens if type(tokens) is int else None, seconds=times,
    )  # fmt: skip


def _row(choice: Choice) -> tuple[str, ...]:
    best = choice.best
    times = [choice.seconds.get(DENSE), choice.seconds[best] if best is not None else None]
    taken = ("norm" if choice.norm else "", choice.activation if choice.activation != "none" else "")
    kernel = " + ".join([choice.kernel, *filter(None, taken)])
    return (
        one_line(choice.layer, 200),
        " × ".join(map(str, choice.shape)),
        f"{choice.zeros:.1%}" if choice.zeros is not None else "",
        f"{choice.tokens:,}" if choice.tokens else "",
        *(f"{each * 1e6:.0f}" if each else "" for each in times),
        f"{choice.faster:.2f}×" if choice.faster else "",
        kernel,
        one_line(choice.why),
    )
