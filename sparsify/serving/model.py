"""The model that a server runs, as a function over batches of texts or images."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from sparsify.engine.pipelines import OF_IMAGES, pipeline
from sparsify.engine.questions import FIELDS, QuestionAnswering
from sparsify.errors import SparsifyError, first_line
from sparsify.pretrained import positions
from sparsify.serving import images
from sparsify.serving.images import InputError
from sparsify.serving.limits import Limits

PARAMETERS: Mapping[str, Mapping[str, tuple[type, float, float]]] = {
    "text-classification": {"top_k": (int, 1, 10_000)},
    "token-classification": {},
    "question-answering": {"handle_impossible_answer": (bool, 0, 1), "max_answer_len": (int, 1, 512)},
    "fill-mask": {"top_k": (int, 1, 10_000)},
    "text-generation": {
        "max_new_tokens": (int, 1, 4096),
        "do_sample": (bool, 0, 1),
        "temperature": (float, 1e-3, 100),
        "top_k": (int, 1, 10_000),
        "top_p": (float, 1e-3, 1),
        "repetition_penalty": (float, 0.1, 10),
    },
    "image-classification": {"top_k": (int, 1, 10_000)},
    "feature-extraction": {},
}
"""What a request may set, by task: type, least and most."""

BLANK = 64
"""The side of an image to begin with."""

_counting = threading.Lock()

Chosen = tuple[tuple[str, Any], ...]
"""Parameters of a request, sorted by name; requests with the same ones share a batch."""


@dataclass
class Served:
    """A model with its tokenizer or image processor, for one task."""

    name: str
    task: str
    engine: str
    run: Any
    counter: Any
    """A tokenizer that counts tokens; that of `run` belongs to the thread that runs batches. None for images."""

    longest: int | None
    """The most tokens that the model has positions for, special ones included."""

    @classmethod
    def open(cls, path: str | Path, task: str | None = None, engine: str = "sparse") -> Served:
        """Load a folder or a packed file. Raises SparsifyError."""
        made = pipeline(task, path, engine=engine)
        if made.task in OF_IMAGES:
            if find_spec("PIL") is None:
                raise SparsifyError("images need Pillow: pip install 'sparsify-torch[serve]'")
            return cls(Path(path).name, made.task, engine, made, None, None)
        if made.tokenizer.pad_token is None:  # batches need one; masked out, it changes nothing
            made.tokenizer.pad_token = made.tokenizer.eos_token
        if made.task == "text-generation":
            made.tokenizer.padding_side = "left"
        counter = copy.deepcopy(made.tokenizer)
        return cls(Path(path).name, made.task, engine, made, counter, positions(made.model.config))

    @property
    def fields(self) -> tuple[str, ...]:
        """The texts of one input, by name; none where it is a text itself."""
        return FIELDS if self.task == QuestionAnswering.task else ()

    @property
    def most(self) -> int | None:
        """The most tokens of an input that the model can take; None where there is no such number."""
        return None if self.fields else self.longest  # a long context is cut into windows

    @property
    def of_images(self) -> bool:
        """Whether inputs are images, as base64, and not texts."""
        return self.task in OF_IMAGES

    @property
    def mode(self) -> str:
        """The mode of the images that the model takes."""
        return "L" if getattr(self.run.model.config, "num_channels", 3) == 1 else "RGB"

    def prepared(self, inputs: Sequence[Any], limits: Limits) -> list[Any]:
        """Return what `answer` takes for each input of a request: its text (or texts), or the tensor of its image.

        Raises InputError for what does not fit.
        """
        if not self.of_images:
            self.check(inputs, limits.length)
            return list(inputs)
        processor = self.run.image_processor
        opened = images.decoded(inputs, limits.pixels, self.mode)
        return [processor(images=image, return_tensors="pt")["pixel_values"] for image in opened]

    def answer(self, inputs: list[Any], parameters: Chosen) -> Sequence[Any]:
        """Return an answer for each prepared input; called by one thread at a time."""
        with torch.inference_mode():
            return self._of_images(inputs, parameters) if self.of_images else self._of_texts(inputs, parameters)

    def _of_images(self, pixels: list[torch.Tensor], parameters: Chosen) -> Sequence[Any]:
        logits = self.run.forward({"pixel_values": torch.cat(pixels)})["logits"]
        return [self.run.postprocess({"logits": row[None]}, **dict(parameters)) for row in logits]

    def _of_texts(self, texts: list[Any], parameters: Chosen) -> Sequence[Any]:
        batched = {"batch_size": len(texts)} if self.run.tokenizer.pad_token is not None else {}
        answers = list(self.run(texts, **batched, **dict(parameters)))
        if self.task == "fill-mask" and len(texts) == 1:  # this pipeline takes a list of one for a text
            return [answers]
        if self.task != "feature-extraction":
            return answers
        # of a batch, the pipeline returns the vectors of the padding too
        return [
            [rows[:number] for rows in answer] for answer, number in zip(answers, self._lengths(texts), strict=True)
        ]

    def _lengths(self, inputs: Sequence[Any]) -> list[int]:
        """Return how many tokens each input has."""
        texts = [[each[name] for each in inputs] for name in self.fields] or [list(inputs)]
        with _counting:  # a fast tokenizer must not be used by two threads
            return [len(ids) for ids in self.counter(*texts, verbose=False)["input_ids"]]

    def check(self, inputs: Sequence[Any], limit: int) -> None:
        """Raise InputError for an input that is empty, too long, or lacks what the task needs."""
        most = min(limit, self.most or limit)
        for index, (given, number) in enumerate(zip(inputs, self._lengths(inputs), strict=True)):
            if number > most:
                raise InputError(f"inputs[{index}] has {number:,} tokens; at most {most:,} are taken")
            if self.task == "fill-mask" and self.run.tokenizer.mask_token not in given:
                raise InputError(f"inputs[{index}] has no {self.run.tokenizer.mask_token} to fill")
            empty = [f"inputs[{index}].{name}" for name in self.fields if not given[name].strip()]
            if not self.fields and not given.strip():
                empty = [f"inputs[{index}]"]
            if empty:
                raise InputError(f"{empty[0]} is empty")
            if self.fields:
                self._has_room(index, given)

    def _has_room(self, index: int, given: Mapping[str, str]) -> None:
        """Raise InputError where a question leaves no room for its context."""
        with _counting:
            taken = len(self.counter(given["question"], "", verbose=False)["input_ids"])
        most = self.run.window()
        if taken >= most:
            raise InputError(f"inputs[{index}].question leaves no room for a context in windows of {most:,} tokens")

    def parameters(self, given: Mapping[str, Any]) -> Chosen:
        """Return the parameters of a request. Raises InputError for what this task does not take."""
        known = PARAMETERS[self.task]
        for name, value in given.items():
            if name not in known:
                rest = f"it takes {', '.join(known)}" if known else "it takes none"
                raise InputError(f"{self.task} takes no parameter {name!r}: {rest}")
            kind, least, most = known[name]
            fits = isinstance(value, (int, float) if kind is float else kind)
            if not fits or (isinstance(value, bool) and kind is not bool) or not least <= value <= most:
                raise InputError(f"{name}: expected {_expected(kind, least, most)}, got {value!r}")
        return tuple(sorted(given.items()))

    def warm(self) -> str | None:
        """Answer one input, so that the first request does not pay for the start; return what was wrong with it."""
        text: Any = "a text" if self.task != "fill-mask" else f"a {self.run.tokenizer.mask_token}"
        if self.fields:
            text = dict.fromkeys(self.fields, text)
        try:
            one = self.prepared([images.blank(BLANK, self.mode)], Limits()) if self.of_images else [text]
            self.answer(one, (("max_new_tokens", 1),) if self.task == "text-generation" else ())
        except Exception as error:  # whatever a model does
            return first_line(error)
        return None


def _expected(kind: type, least: float, most: float) -> str:
    if kind is bool:
        return "true or false"
    return f"a {'whole number' if kind is int else 'number'} from {least:g} to {most:g}"
