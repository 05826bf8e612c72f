"""A small model under `substitute`, step by step, and a slow reference of what norms and activations compute."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from sparsify import Manager, Recipe
from tests.models import MODELS, build

STEPS, BEGIN, END = 8, 1, 5


def recipe(text: str = "norms: nonorm, activations: relu", begin: int = BEGIN, end: int = END) -> Recipe:
    return Recipe.parse(
        f"version: 1\nmodifiers:\n  - {{type: substitute, {text}, window: {{begin: {begin}, end: {end}}}}}\n"
    )


class Training:
    def __init__(
        self, name: str = "bert", text: str = "norms: nonorm, activations: relu", recipe_: Recipe | None = None
    ) -> None:
        self.model = build(name)
        self.model.eval()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.manager = Manager(recipe_ or recipe(text)).apply(self.model, self.optimizer, total_steps=STEPS)
        self.inputs: dict[str, Any] = dict(MODELS[name].inputs())

    def output(self) -> Tensor:
        with torch.no_grad():
            return next(iter(self.model(**self.inputs).values()))  # type: ignore[no-any-return]

    def train(self, until: int = STEPS) -> Training:
        while self.manager.step < until:
            self.manager.on_step_begin()
            self.optimizer.zero_grad()
            loss = next(iter(self.model(**self.inputs).values())).square().mean()
            loss.backward()
            self.manager.on_before_optimizer_step()
            self.optimizer.step()
            self.manager.on_step_end()
        return self

    def states(self) -> list[Any]:
        return [copy.deepcopy(part.state_dict()) for part in (self.model, self.optimizer, self.manager)]

    def load(self, states: list[Any]) -> Training:
        for part, state in zip((self.model, self.optimizer, self.manager), states, strict=True):
            part.load_state_dict(state)
        return self


def norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, kind: str, eps: float, share: float, m: float, v: float
) -> Tensor:
    """Return what a norm on its way computes, token by token."""
    out = torch.empty_like(x)
    for place in range(x.shape[0]):
        token = x[place]
        mean = float(token.mean()) if kind == "layer" else 0.0
        square = float(((token - mean) ** 2).mean())
        mean, square = (1 - share) * mean + share * m, (1 - share) * square + share * v
        out[place] = (token - mean) / (square + eps) ** 0.5 * weight + (0 if bias is None else bias)
    return out
