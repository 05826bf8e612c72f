"""Trained models on the sparse engine: the same predictions as torch's, and how many sentences a second.

    python benchmarks/served.py DENSE FOLDER … --texts FILE [--rounds 3] [--batch-size 32] [--png FILE] [--json FILE]

FILE has a `label<TAB>sentence` a line; each folder is what `sparsify train --task text-classification` wrote, the first
the dense model. Every model runs in `engine.pipeline`, once on torch and once on the engine, in turns; a turn is the
whole file, tokenizer and all. Ratios are medians over the rounds of the dense model's seconds on torch ÷ the model's of
the same round. The picture is throughput against accuracy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from sparsify import engine
from sparsify.benchmarking.machine import machine
from sparsify.engine.pipelines import ENGINES
from sparsify.report.limits import limits, tick


@dataclass
class Subject:
    """A model on an engine, and what was found of it."""

    model: str
    engine: str
    zeros: float
    accuracy: float = 0.0
    other_labels: int = 0
    """Rows whose label is not that of the same model on torch."""
    largest_difference: float = 0.0
    """Of the probability of a row's label, from the same model on torch."""
    seconds: list[float] = field(default_factory=list)
    faster: float = 1.0


def read(file: Path) -> tuple[list[str], list[str]]:
    """Return labels and sentences."""
    rows = [line.split("\t", 1) for line in file.read_text(encoding="utf-8").splitlines()]
    return [label for label, _ in rows], [text for _, text in rows]


def zeros_of(folder: Path) -> float:
    """Return the fraction of zeros among the weights of the layers."""
    layers = json.loads((folder / "report.json").read_text(encoding="utf-8"))["density"]["layers"]
    return float(layers["sparsity"])


def turns(asked: argparse.Namespace, texts: list[str]) -> tuple[list[Subject], list[list[dict[str, Any]]]]:
    """Run every model on every engine, in turns; return what was found and the last answers."""
    subjects = [Subject(each.name, name, zeros_of(each)) for each in asked.folders for name in reversed(ENGINES)]
    pipelines = [
        engine.pipeline("text-classification", each, engine=name)
        for each in asked.folders
        for name in reversed(ENGINES)
    ]
    answers: list[list[dict[str, Any]]] = [[] for _ in subjects]
    for number in range(asked.rounds + 1):  # the first is a warm-up
        for place, (subject, classify) in enumerate(zip(subjects, pipelines, strict=True)):
            begin = time.perf_counter()
            answers[place] = classify(texts, batch_size=asked.batch_size)
            if number:
                subject.seconds.append(time.perf_counter() - begin)
    return subjects, answers


def judge(subjects: list[Subject], answers: list[list[dict[str, Any]]], labels: list[str]) -> None:
    """Fill in accuracy, agreement with torch, and how many times as fast as the first each is."""
    for place, (subject, mine) in enumerate(zip(subjects, answers, strict=True)):
        reference = answers[place - place % len(ENGINES)]
        same = [a["label"] == b["label"] for a, b in zip(mine, reference, strict=True)]
        subject.other_labels = len(same) - sum(same)
        subject.largest_difference = max(abs(a["score"] - b["score"]) for a, b in zip(mine, reference, strict=True))
        right = [each["label"].removeprefix("LABEL_") == label for each, label in zip(mine, labels, strict=True)]
        subject.accuracy = sum(right) / len(right)
        ratios = [dense / own for dense, own in zip(subjects[0].seconds, subject.seconds, strict=True)]
        subject.faster = statistics.median(ratios)


def draw(subjects: list[Subject], rows: int, file: Path) -> None:
    """Draw throughput against accuracy: a line from each model on torch to itself on the engine."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for place in range(0, len(subjects), len(ENGINES)):
        pair = subjects[place : place + len(ENGINES)]
        speeds = [rows / statistics.median(each.seconds) for each in pair]
        heights = [each.accuracy for each in pair]
        (line,) = axes.plot(speeds, heights, linewidth=1)
        axes.plot(speeds[:1], heights[:1], "o", color=line.get_color(), fillstyle="none")
        axes.plot(
            speeds[1:], heights[1:], "o", color=line.get_color(), label=f"{pair[0].model}, {pair[0].zeros:.0%} zeros"
        )
    axes.set_xlabel("sentences a second (open: torch; filled: the sparse engine)")
    axes.set_ylabel("accuracy")
    axes.set_xlim(left=0)
    axes.set_ylim(*limits("accuracy", [each.accuracy for each in subjects]))
    axes.yaxis.set_major_formatter(lambda value, _: tick("accuracy", value))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=130)


def main() -> None:
    """Measure, and print a line for each model on each engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--png", type=Path)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    labels, texts = read(asked.texts)
    subjects, answers = turns(asked, texts)
    judge(subjects, answers, labels)
    print(f"{machine()}; {torch.get_num_threads()} threads; {len(texts)} sentences, {asked.batch_size} in a batch")
    for each in subjects:
        print(
            f"{each.model:32} {each.engine:7} {each.zeros:6.1%} zeros  accuracy {each.accuracy:7.2%}  "
            f"{len(texts) / statistics.median(each.seconds):7.1f} sentences/s  ×{each.faster:.2f}  "
            f"other labels {each.other_labels}, largest difference {each.largest_difference:.1e}"
        )
    if asked.json is not None:
        asked.json.write_text(json.dumps([asdict(each) for each in subjects], indent=1) + "\n", encoding="utf-8")
    if asked.png is not None:
        draw(subjects, len(texts), asked.png)


if __name__ == "__main__":
    main()
