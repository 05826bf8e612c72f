"""A teacher with a memory: it is asked about samples that it has not seen, and counts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsify import ranks
from sparsify.errors import HookError, StateError
from sparsify.layers.adapters import base_of
from sparsify.modifiers.distill.answers import Layout, Table
from sparsify.modifiers.distill.answers_file import Answers, check_tables
from sparsify.modifiers.distill.cache import kept_whole
from sparsify.modifiers.distill.keys import keys_of
from sparsify.modifiers.distill.outputs import SPANS, check_same, counted, logits_of
from sparsify.modifiers.distill.plan import DistillPlan
from sparsify.modifiers.distill.positions import is_encoder_decoder, next_token
from sparsify.modifiers.distill.recorder import Arguments
from sparsify.modifiers.distill.sampled import Sampled, draw, numbers
from sparsify.modifiers.distill.teacher import Teacher
from sparsify.modifiers.distill.terms import LogitsTerm
from sparsify.state_reader import StateReader

OBSERVED = 20
"""Steps of the second epoch after which it is clear whether samples come back."""


class CachedTeacher:
    """Answers from memory where it can."""

    def __init__(self, plan: DistillPlan, teacher: Teacher, answers: Answers, student: nn.Module) -> None:
        assert plan.spec.cache is not None
        self.plan, self.teacher, self.answers, self.tokens = plan, teacher, answers, plan.spec.cache.tokens
        self.hits = self.misses = 0
        self._again = [0, 0]
        """Samples that were looked up at the beginning of the second epoch, and those that were found."""

        self._shifted, self._decoder = next_token(student), is_encoder_decoder(student)
        self._tokens_are_classes = type(base_of(student)).__name__.endswith("ForTokenClassification")

    def ask(self, arguments: Arguments, outputs: Any, inputs: Mapping[str, Any], step: int) -> Any:
        """Return the teacher's outputs for a batch, or what is known of them (`Sampled`).

        `arguments` are those of the student's forward, `inputs` the same by name, `outputs` what it returned.
        """
        mine = logits_of(outputs)
        name, logits = next(iter(mine.items()))
        layout, batch = self._layout(mine), logits.shape[0]
        valid = None if layout.kind == "rows" else self._positions(name, logits, inputs)
        temperature = self._temperature() if layout.kind == "sampled" else 1.0
        salt = f"{self.tokens} {temperature!r} {logits.shape[-1]}" if layout.kind == "sampled" else ""
        given = {key: value for key, value in inputs.items() if self.teacher.reads(key)}
        keys = keys_of(given, batch, valid, salt=salt, decoder=self._decoder)
        table = self.answers.table(layout)
        missing = [row for row, key in enumerate(keys) if key not in table]
        if missing:
            first: dict[bytes, int] = {}
            for row in missing:
                first.setdefault(keys[row], row)
            self._learn(table, arguments, list(first.values()), keys, mine, valid, temperature)
        self._count(step, batch, batch - len(missing))
        return _assembled(table, keys, valid, logits)

    def _layout(self, mine: Mapping[str, Tensor]) -> Layout:
        logits = next(iter(mine.values()))
        if tuple(mine) == SPANS:
            return Layout("spans", 1)
        if logits.dim() == 2:
            return Layout("rows", logits.shape[-1])
        if logits.dim() != 3:
            raise HookError(f"logits of shape {list(logits.shape)} cannot be kept in a cache: leave `cache` out")
        whole = self._tokens_are_classes or kept_whole(logits.shape[-1])
        return Layout("positions", logits.shape[-1]) if whole else Layout("sampled", self.tokens)

    def _positions(self, name: str, logits: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """Return which positions are distilled, `[batch, positions]`, on the CPU: no others are kept."""
        valid = counted(name, logits.shape, inputs, shifted=self._shifted)
        places = logits.shape[:2]
        return torch.ones(places, dtype=torch.bool) if valid is None else valid.cpu()

    def _temperature(self) -> float:
        """Return the temperature at which tokens are drawn.

        Raises HookError for terms that need whole logits; the plan says so where it sees that a model has a vocabulary.
        """
        problem = self.plan.spec.undrawn()
        if problem is not None:
            raise HookError(f"{self.plan.key}: {problem[1]}")
        return next(each.term.temperature for each in self.plan.spec.named() if isinstance(each.term, LogitsTerm))

    def _learn(
        self,
        table: Table,
        arguments: Arguments,
        rows: Sequence[int],
        keys: Sequence[bytes],
        mine: Mapping[str, Tensor],
        valid: Tensor | None,
        temperature: float,
    ) -> None:
        """Ask the teacher about some rows, and keep what it says of the positions that count."""
        index = torch.tensor(rows)
        theirs = logits_of(self.teacher.ask(arguments, rows=index, batch=len(keys)).outputs)
        check_same({name: logits[index.to(logits.device)] for name, logits in mine.items()}, theirs)
        if valid is None:
            flat, counts = theirs, [1] * len(rows)
        else:
            places = valid[index]
            counts = places.sum(-1).tolist()
            flat = {name: logits[places.to(logits.device)] for name, logits in theirs.items()}
        if any(bool((logits.isnan() | (logits == torch.inf)).any()) for logits in flat.values()):
            raise HookError(f"{self.plan.key}: the teacher's logits are not finite, which no cache keeps")
        wanted = [keys[row] for row in rows]
        if table.layout.kind == "sampled":
            seeds = [int.from_bytes(key[:8], "little") >> 1 for key in wanted]
            ids, surprise = draw(flat["logits"], numbers(seeds, counts), self.tokens, temperature)
            flat = {"ids": ids, "surprise": surprise}
        table.add(wanted, counts, {name: values.detach() for name, values in flat.items()})

    # ------------------------------------------------------------------ hits and misses

    def _count(self, step: int, samples: int, hits: int) -> None:
        """Count; raise HookError where the samples of the first epoch do not come back in the second."""
        self.hits += hits
        self.misses += samples - hits
        epoch, begin = self.plan.stage.steps_per_epoch, self.plan.window.begin
        if not epoch:
            return
        second = (-(-begin // epoch) + 1) * epoch  # the first whole epoch is over
        last = second + min(OBSERVED, epoch) - 1
        if not second <= step <= last:
            return
        self._again = [self._again[0] + samples, self._again[1] + hits]
        looked, found = self._again
        if step == last and 2 * found * ranks.count() < looked:  # each process has seen its part of the data
            raise HookError(
                f"{self.plan.key}: the second epoch has begun, and of {looked} samples {found} were seen in the first: "
                "the inputs are changed at random (augmentation, dynamic masking, other padding before the tokens), "
                "which a cache cannot serve: leave `cache` out"
            )

    def report(self) -> dict[str, int]:
        """Return how often the teacher was asked about a sample, and how often not."""
        return {"misses": self.misses, "hits": self.hits, "samples": len(self.answers)}

    # ------------------------------------------------------------------ state

    def state(self) -> dict[str, Any]:
        """Return what was counted, and the answers where no folder keeps them; those in a folder are written."""
        self.answers.write()
        keeps = self.answers.folder is None and self.answers.keeper == self.plan.key
        return {
            "misses": self.misses,
            "hits": self.hits,
            "again": list(self._again),
            **({"answers": self.answers.state()} if keeps else {}),
        }

    def check_state(self, saved: StateReader) -> None:
        """Raise StateError for a state that cannot be taken up."""
        saved.within(("misses", "hits", "again", "answers"))
        saved.integer("misses")
        saved.integer("hits")
        if len(saved.integers("again")) != 2:
            raise saved.fail("again", "expected two numbers")
        if "answers" in saved:
            check_tables(saved.part("answers"))

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that was checked; the teacher is the one that it was saved with."""
        self.misses, self.hits, self._again = state["misses"], state["hits"], list(state["again"])
        self.answers.turn_to(self.teacher.checksum)
        if self.answers.keeper == self.plan.key:
            self.answers.take_up(state.get("answers", {}))


def _assembled(table: Table, keys: Sequence[bytes], valid: Tensor | None, like: Tensor) -> Any:
    """Return the kept values in the places where they stand in the batch; 0 where nothing is distilled."""
    found = table.take(keys)
    if valid is None:
        return {name: values.to(like.device) for name, values in found.items()}
    if table.counts(keys) != valid.sum(-1).tolist():
        raise StateError("the teacher's cache holds another number of positions for a sample: remove it")
    placed = {}
    for name, values in found.items():
        whole = values.new_zeros(*valid.shape, *values.shape[1:])
        whole[valid] = values
        placed[name] = whole.to(like.device)
    if table.layout.kind != "sampled":
        return placed
    if found["ids"].numel() and int(found["ids"].max()) >= like.shape[-1]:
        raise StateError("the teacher's cache holds tokens that the model does not have: remove it")
    return Sampled(placed["ids"].long(), placed["surprise"])
