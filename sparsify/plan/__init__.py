"""Recipe × model × number of steps → every tensor, window and conflict, before anything is trained."""

from sparsify.plan.plan import Plan
from sparsify.plan.planner import StagePlan

__all__ = ["Plan", "StagePlan"]
