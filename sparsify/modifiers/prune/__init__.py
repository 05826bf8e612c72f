"""`prune`: fields (with checks and words), the plan, and what runs: with a budget, with learned scores, with gates."""

from sparsify.modifiers.prune.prune import Prune

__all__ = ["Prune"]
