"""Steering a penalty so that sparsity follows its ramp: nobody has to guess λ."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from sparsify.state_reader import StateReader

GAIN = 4.0
"""Pressure for each unit of error: at 1.28 times the density wanted it pushes as hard as training pulls."""
REACTION = 1 / 10
"""The part of the window in which a lasting error doubles the pressure."""
SMALL = 0.1
"""A larger error counts as much in the integral: while scores are on their way, it must not pile up."""
LEAST = 1e-3
"""Added to densities, for nothing at all has no logarithm."""
LIMIT = 16.0
"""The strongest pressure."""
MEMORY = 0.98
"""Of the mean square."""
STRIDE = 0.01
"""What a pressure of 1 moves a score by in a step of plain SGD, as Adam does at the usual learning rate."""


@dataclass
class Controller:
    """A proportional-integral controller of the pressure on the scores of one share.

    Pressure is relative: 1 pushes as hard as the movement gradients pull (root mean square), so that neither the
    loss's scale nor the number of weights matters. Negative pressure lets groups come back after an overshoot.
    """

    reaction: float
    """Optimizer steps after which a lasting error has doubled the pressure."""

    pressure: float = 0.0
    integral: float = 0.0
    noise: float = 0.0
    """Running mean of the squared gradients of the scores."""

    def blended(self, square: float) -> float:
        """Return `noise` with a step's mean squared gradient; it becomes ours if the step happens."""
        return square if self.noise == 0 else MEMORY * self.noise + (1 - MEMORY) * square

    def steer(self, wanted: float, found: float, steps: int) -> None:
        """Set the pressure from the sparsity wanted and found, `steps` after the last time.

        The error is that of the logarithm of density: scores have a tail that is about exponential, so one pressure
        moves it alike at any density, where a point of sparsity is a tenth of what is left at 90 %.
        """
        error = math.log((1 - found + LEAST) / (1 - wanted + LEAST))
        raw = GAIN * error + self.integral
        self.pressure = min(max(raw, -LIMIT), LIMIT)
        if self.pressure == raw:  # an integral that went on while the pressure is at its limit would overshoot
            self.integral += GAIN * min(max(error, -SMALL), SMALL) * steps / self.reaction

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to go on."""
        return asdict(self)

    @staticmethod
    def check(state: StateReader) -> None:
        """Raise StateError for a state that is none of a controller."""
        state.exactly([each.name for each in fields(Controller)])
        for key in state:
            state.number(key)
        if state.number("reaction") <= 0 or state.number("noise") < 0:
            raise state.fail("reaction", "expected a positive number of steps, and a noise of at least 0")
