"""`learning_rate`: warm-up, decay and restarts, by stage."""

from sparsify.modifiers.learning_rate.learning_rate import LearningRate

__all__ = ["LearningRate"]
