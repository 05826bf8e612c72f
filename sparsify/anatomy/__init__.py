"""Architectures by role: the one place that knows them. One family a file, in `families`."""

from sparsify.anatomy.absent import absent
from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, Fixed, architectures, register
from sparsify.anatomy.experts import routers
from sparsify.anatomy.parts import ROLES, Anatomy, Attention, Experts, FeedForward, Layer
from sparsify.anatomy.read import read

__all__ = [
    "ROLES",
    "Anatomy",
    "Architecture",
    "Attention",
    "AttentionPaths",
    "Experts",
    "FeedForward",
    "FeedForwardPaths",
    "Fixed",
    "Layer",
    "absent",
    "architectures",
    "read",
    "register",
    "routers",
]
