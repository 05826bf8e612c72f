"""How much, when: curves, the ramp that a curve shapes, and the window in which it is walked."""

from sparsify.schedules.base import Curve
from sparsify.schedules.level import Factor, Level, Threshold
from sparsify.schedules.ramp import EXISTING, Ramp
from sparsify.schedules.window import Window
from sparsify.spec import discover

discover(__name__)

__all__ = ["EXISTING", "Curve", "Factor", "Level", "Ramp", "Threshold", "Window"]
