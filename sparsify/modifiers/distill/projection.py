"""Projections from the student's width to the teacher's, learned beside the model in an optimizer of our own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from sparsify.modifiers.rate import Rate
from sparsify.optimizers import check_moments, moments, restore_moments
from sparsify.ranks import mean_
from sparsify.state_reader import StateReader


class Projections:
    """One matrix `[teacher's width, student's width]`, float32, for each layer of the student whose width differs."""

    def __init__(self, widths: Mapping[str, tuple[int, int]], learning_rate: float, rate: Rate, device: Any) -> None:
        self.learning_rate, self.rate = learning_rate, rate
        self.matrices = {name: nn.Parameter(_start(name, *sizes).to(device)) for name, sizes in widths.items()}
        values = list(self.matrices.values())
        self.optimizer = torch.optim.Adam(values, lr=learning_rate, weight_decay=0.0) if values else None
        rate.begin()

    def __call__(self, name: str, hidden: Tensor) -> Tensor:
        """Return the hidden states `[…, student's width]` of a layer in the teacher's width, or as they are."""
        matrix = self.matrices.get(name)
        return hidden if matrix is None else hidden.to(matrix.dtype) @ matrix.T

    def collect(self, scale: float) -> None:
        """The gradients are complete: unscale them, and take the mean over all processes."""
        for matrix in self.matrices.values():
            if matrix.grad is not None:
                matrix.grad.div_(scale)
                mean_(matrix.grad)

    def step(self) -> None:
        """Learn, at the rate that follows the user's schedule."""
        if self.optimizer is None:
            return
        self.rate.read(follow=True)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * self.rate.factor
        if all(matrix.grad is None or bool(matrix.grad.isfinite().all()) for matrix in self.matrices.values()):
            self.optimizer.step()
        self.forget()

    def forget(self) -> None:
        """Drop the gradients."""
        for matrix in self.matrices.values():
            matrix.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return matrices and moments by layer."""
        optimizer = self.optimizer
        return {
            "initial": self.rate.initial,
            "matrices": {name: matrix.detach().clone() for name, matrix in self.matrices.items()},
            "moments": {name: moments(optimizer, m) if optimizer else {} for name, m in self.matrices.items()},
        }

    def check_state(self, state: StateReader) -> None:
        """Raise StateError for a state of other projections."""
        state.exactly(("initial", "matrices", "moments"))
        state.number("initial")
        matrices, saved = state.part("matrices"), state.part("moments")
        for part in (matrices, saved):
            part.exactly(list(self.matrices))
        for name, matrix in self.matrices.items():
            matrices.tensor(name, tuple(matrix.shape), matrix.dtype)
            check_moments(saved.part(name), "adam", tuple(matrix.shape), matrix.dtype)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that was checked."""
        self.rate.initial = float(state["initial"])
        for name, matrix in self.matrices.items():
            matrix.copy_(state["matrices"][name])
            assert self.optimizer is not None
            restore_moments(self.optimizer, matrix, state["moments"][name])


def _start(name: str, student: int, teacher: int) -> Tensor:
    """Return the first matrix of a layer: normal with variance 1 ÷ student's width, the same in every process."""
    generator = torch.Generator().manual_seed(crc32(name.encode()))
    return torch.randn(teacher, student, generator=generator) / math.sqrt(student)
