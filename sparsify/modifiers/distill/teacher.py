"""The teacher: where it comes from, whether it fits the student, and what it makes of a batch."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.bits import fingerprint
from sparsify.errors import PlanError, first_line
from sparsify.layers import unwrap
from sparsify.layers.adapters import base_of
from sparsify.modifiers.distill.outputs import with_spans
from sparsify.modifiers.distill.positions import is_encoder_decoder
from sparsify.modifiers.distill.recorder import Arguments, Recorder, Seen
from sparsify.pretrained import load

UNSEEN = ("num_items_in_batch", "start_positions", "end_positions", "next_sentence_label", "output_router_logits")
"""What the student is given to make a loss of, and a teacher does without."""
WHOLE = ("cache_position",)
"""What has one value for each position of the batch, and none for each sample."""


def frozen_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a model for evaluation, with its weights of now. Raises PlanError for what cannot be copied."""
    try:
        other = copy.deepcopy(unwrap(model))
    except Exception as error:  # whatever a module holds
        raise PlanError(f"the model cannot be copied, to be its own teacher: {error}") from None
    return other.requires_grad_(False).eval()


def resolve(given: Any, name: str) -> nn.Module:
    """Return the module that a binding stands for: itself, or loaded from a folder or by name. Raises PlanError."""
    if isinstance(given, nn.Module):
        return unwrap(given)
    if isinstance(given, (str, PathLike)):
        return load(str(given)).requires_grad_(False)
    raise PlanError(f"{name} must be a module, a folder, or the name of a model, got a {type(given).__name__}")


def check_fits(teacher: nn.Module, student: nn.Module, name: str) -> None:
    """Raise PlanError for a teacher that is the student itself, or that reads or says something else."""
    mine = {id(parameter) for parameter in student.parameters()}
    if teacher is student or any(id(parameter) in mine for parameter in teacher.parameters()):
        raise PlanError(f"{name} shares weights with the model that is trained; write `teacher: self` for a copy of it")
    own: Any = getattr(student, "config", None)
    other: Any = getattr(teacher, "config", None)
    for key, what in (("vocab_size", "reads other tokens"), ("image_size", "reads images of another size")):
        one, two = (_size(config, key) for config in (own, other))
        if isinstance(one, int) and isinstance(two, int) and one != two:
            raise PlanError(f"{name} {what} than the model ({key} {two}, not {one}): both see the same inputs")
    if not _is_classifier(student):
        return
    labels = [_labels(config) for config in (own, other)]
    if None not in labels and labels[0] != labels[1]:
        raise PlanError(
            f"{name} has the labels {labels[1]}, the model {labels[0]}: they must be the same, in this order"
        )


def _size(config: Any, key: str) -> Any:
    """Return a size of a configuration; of one that has a configuration for texts, that of it."""
    texts = getattr(config, "text_config", None) if key == "vocab_size" else None
    return getattr(config if texts is None else texts, key, None)


def _is_classifier(model: nn.Module) -> bool:
    return type(base_of(model)).__name__.endswith("Classification")


def _labels(config: Any) -> list[str] | None:
    named = getattr(config, "id2label", None)
    return [str(named[key]) for key in sorted(named)] if isinstance(named, Mapping) else None


def checksum_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return a hash of tensors by name, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        floating = tensor if tensor.is_floating_point() else tensor.double()
        digest.update(f"{name} {tuple(tensor.shape)} {fingerprint(floating)}\n".encode())
    return digest.hexdigest()


class Teacher:
    """A model that is asked, and never trained. It is part of no optimizer, and of no module of the user's."""

    def __init__(self, model: nn.Module, recorder: Recorder, student: nn.Module) -> None:
        self.model, self.recorder = model, recorder
        _place(model, next((parameter.device for parameter in student.parameters()), torch.device("cpu")))
        model.eval()
        self.kind = type(model).__name__
        self.checksum = checksum_of_tensors(self.weights())
        self._names, self._by_name = _accepted(base_of(model)), _is_of_transformers(model)
        self._student = inspect.signature(student.forward)
        self._keeps_labels = is_encoder_decoder(model)
        floating = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
        self._dtype = next(floating, None)

    def release(self) -> None:
        """Let go of the model; it is not asked again."""
        self.model = nn.Identity()

    def weights(self) -> dict[str, Tensor]:
        """Return parameters and buffers by name, each once."""
        named = [*self.model.named_parameters(), *self.model.named_buffers()]
        return {name: tensor.detach() for name, tensor in named}

    @torch.no_grad()
    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Take up weights that were checked."""
        for name, tensor in self.weights().items():
            tensor.copy_(weights[name])
        self.checksum = checksum_of_tensors(self.weights())

    @torch.no_grad()
    def ask(self, arguments: Arguments, rows: Tensor | None = None, batch: int = 0) -> Seen:
        """Return what the teacher makes of the arguments of the student's forward, or of some `rows` of its `batch`."""
        if self.model.training:  # somebody has called train() on it
            self.model.eval()
        positional, named = self._fitting(arguments)
        if rows is not None and len(rows) < batch:
            positional, named = _rows_of(positional, rows, batch), _rows_of(named, rows, batch)
        if self._dtype is not None:  # images and sounds come in the student's, which may be another
            positional, named = _in_dtype(positional, self._dtype), _in_dtype(named, self._dtype)
        self.recorder.clear()
        self.model(*positional, **named)
        seen = self.recorder.take()
        seen.outputs = with_spans(seen.outputs, self.model)
        return seen

    def reads(self, name: str) -> bool:
        """Whether an argument of the student's forward says something about a sample, as not all in a batch does."""
        return not self._by_name or self._names is None or name in self._names or name in UNSEEN

    def _fitting(self, arguments: Arguments) -> tuple[tuple[Any, ...], dict[str, Any]]:
        positional, named = arguments
        names = self._names if self._names is not None else {*named}
        if not self._by_name:
            return positional, {key: value for key, value in named.items() if key in names}
        bound = self._student.bind_partial(*positional)
        whole = {**bound.arguments, **named} if positional else named
        unseen = UNSEEN if self._keeps_labels else (*UNSEEN, "labels")
        return (), {key: value for key, value in whole.items() if key in names and key not in unseen}


def _place(model: nn.Module, device: torch.device) -> None:
    """Move a teacher to the student's device; one that is spread over several (`device_map`) stays where it is.

    Raises PlanError for one that cannot be moved, or whose weights are not in memory.
    """
    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        raise PlanError("the teacher's weights are not in memory (offloaded, or never loaded): load it whole")
    if getattr(model, "hf_device_map", None) or all(tensor.device == device for tensor in tensors):
        return
    try:
        model.to(device)
    except (RuntimeError, ValueError, NotImplementedError) as error:  # quantized, out of memory
        raise PlanError(f"the teacher cannot be moved to {device}: {first_line(error)}; load it there") from None


def _is_of_transformers(model: nn.Module) -> bool:
    return getattr(model, "config", None) is not None and hasattr(model, "config_class")


def _accepted(model: nn.Module) -> set[str] | None:
    """Return the names of what a model takes; None for a module that takes whatever it is given."""
    parameters = inspect.signature(model.forward).parameters
    open_ended = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    return None if open_ended and not _is_of_transformers(model) else set(parameters)


def _in_dtype(value: Any, dtype: torch.dtype) -> Any:
    """Return an argument with its floating-point tensors in another dtype."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: _in_dtype(each, dtype) for key, each in value.items()}
    if type(value) in (tuple, list):  # others, such as packed sequences, are more than their parts
        return type(value)(_in_dtype(each, dtype) for each in value)
    return value


def _rows_of(value: Any, rows: Tensor, batch: int) -> Any:
    """Return an argument with some rows of its tensors; what has no row for each sample stays whole."""
    if isinstance(value, Tensor):
        return value[rows.to(value.device)] if value.dim() and value.shape[0] == batch else value
    if isinstance(value, Mapping):
        return {key: each if key in WHOLE else _rows_of(each, rows, batch) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_rows_of(each, rows, batch) for each in value)
    return value
