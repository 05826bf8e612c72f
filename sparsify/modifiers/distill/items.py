"""By which number a loss is divided: what is added to a task loss is divided as that is."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.layers.adapters import base_of
from sparsify.modifiers.distill.positions import labelled

NUMBER = "num_items_in_batch"
"""What transformers' Trainer gives to models: the labels of an optimizer step, over micro-batches and processes."""

MEANS = ("regression", "multi_label_classification")
"""Problems whose loss is a mean, whatever number the loss function of transformers is given."""


def divides_by_items(model: nn.Module) -> bool:
    """Whether a model's own loss is a sum ÷ `num_items_in_batch` where it is given that number.

    Many models of transformers take the number and ignore it: their loss stays a mean, and so must what is added.
    """
    model = base_of(model)
    config: Any = getattr(model, "config", None)
    classifies = type(model).__name__.endswith(("ForSequenceClassification", "ForImageClassification"))
    one = classifies and getattr(config, "num_labels", None) == 1
    if one or (classifies and getattr(config, "problem_type", None) in MEANS):
        return False
    return _hands_on(inspect.unwrap(type(model).forward))


@cache
def _hands_on(forward: Any) -> bool:
    """Whether a forward gives the number to its loss function: by its name, or with everything that it was given."""
    code = getattr(forward, "__code__", None)
    names = (*code.co_names, *code.co_varnames) if code is not None else ()
    if NUMBER in names:
        return True
    if "loss_function" not in names:
        return False
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(forward)))
    except (OSError, TypeError, SyntaxError):  # no source: made by hand, or frozen
        return True
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "loss_function"
        and any(keyword.arg in (None, NUMBER) for keyword in node.keywords)
        for node in ast.walk(tree)
    )


def share(inputs: Mapping[str, Any], *, shifted: bool) -> Tensor | float:
    """Return the part that this micro-batch has in an optimizer step whose losses are sums ÷ `num_items_in_batch`.

    1 where the loss is a mean, which the loop divides by the number of micro-batches.
    """
    items, labels = inputs.get(NUMBER), inputs.get("labels")
    if items is None or not isinstance(labels, Tensor):
        return 1.0
    valid = labelled(labels, labels.shape, shifted=shifted)
    counted = valid.sum() if valid is not None else torch.tensor(float(labels.shape[0]), device=labels.device)
    return counted.float() / float(items)
