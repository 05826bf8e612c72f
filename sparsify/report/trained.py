"""Two trained folders side by side: their metrics, and how far their predictions agree."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsify.outcome import REPORT
from sparsify.report.limits import FRACTIONS
from sparsify.report.predictions import FILE, Agreement, Distance, Predictions, compare, read_predictions
from sparsify.report.saved import Saved
from sparsify.report.written import Written, read_written

SHOWN = ("accuracy", "f1", "exact_match", "matthews", "perplexity", "spearman", "pearson", "mse", "loss")
LANGUAGE = ("causal-lm", "masked-lm")

Row = tuple[str, str, str, str]


@dataclass(frozen=True)
class Side:
    """What lies beside a model that was trained."""

    written: Written
    predictions: Predictions | None

    @property
    def rows(self) -> tuple[str | None, str | None]:
        """What the model was evaluated on: task, and hash of the rows; None where it is not known."""
        training = self.written.training
        return (training.settings.task, training.data.eval_sha256) if training else (None, None)


@dataclass(frozen=True)
class Trained:
    """Two trained models, A and B."""

    before: Side
    after: Side
    agreement: Agreement | Distance | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def comparable(self) -> bool:
        """Whether both were evaluated on the same rows, as far as their reports tell."""
        return None not in self.before.rows and self.before.rows == self.after.rows

    def table(self) -> list[Row]:
        """Return (metric, A, B, difference) as text; no difference between evaluations of different rows."""
        first, second = self.before.written.metrics, self.after.written.metrics
        rows = []
        for name in SHOWN:
            if name in first or name in second:
                both = self.comparable and name in first and name in second
                apart = _apart(name, second[name] - first[name]) if both else ""
                rows.append((name, _value(name, first), _value(name, second), apart))
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "metrics_before": self.before.written.metrics,
            "metrics_after": self.after.written.metrics,
            "same_rows": self.comparable,
            "agreement": None if self.agreement is None else self.agreement.to_dict(),
            "notes": self.notes,
        }


def trained(before: Saved, after: Saved) -> Trained | None:
    """Return two trained folders; None where neither has metrics beside it. Raises StateError for damaged files."""
    first, second = _side(before), _side(after)
    lacks = [label for label, side in (("A", first), ("B", second)) if not side.written.metrics]
    if len(lacks) == 2:
        return None
    if lacks:
        return Trained(first, second, None, [f"{lacks[0]} has no {REPORT} with metrics: only weights are compared"])
    return _compared(Trained(first, second))


def _compared(found: Trained) -> Trained:
    """Return the same with the agreement of predictions, or why there is none."""
    first, second = found.before.predictions, found.after.predictions
    if not found.comparable:
        counts = [side.written.training.data.eval_rows for side in (found.before, found.after) if side.written.training]
        shown = " and ".join("an unknown number" if count is None else f"{count:,}" for count in counts)
        note = f"not evaluated on the same rows ({shown}): no difference is given, and no predictions are compared"
        return Trained(found.before, found.after, None, [note])
    if first is None or second is None:
        label = "A" if first is None else "B"
        why = "language models keep none" if found.before.rows[0] in LANGUAGE else f"{label} has no {FILE}"
        return Trained(found.before, found.after, None, [f"predictions are not compared: {why}"])
    if {first.sha256, second.sha256} != {found.before.rows[1]}:
        note = f"predictions are not compared: a {FILE} is of another evaluation than the {REPORT} beside it"
        return Trained(found.before, found.after, None, [note])
    return Trained(found.before, found.after, compare(first, second))


def _side(saved: Saved) -> Side:
    with saved.beside() as beside:
        folder: Path = beside
        return Side(read_written(folder / REPORT), read_predictions(folder / FILE))


def _value(name: str, metrics: dict[str, float]) -> str:
    if name not in metrics:
        return "–"
    return f"{metrics[name]:.2%}" if name in FRACTIONS else f"{metrics[name]:.4f}"


def _apart(name: str, difference: float) -> str:
    return f"{100 * difference:+.2f} points" if name in FRACTIONS else f"{difference:+.4f}"
