"""Compound sparsification on SST-2: dense and sparse runs of one length, over several seeds, in one table.

    python benchmarks/sst2.py MODEL DATA OUT [--epochs 10] [--seeds 0 1 2] [--only NAME …] [--stream 0/2]

MODEL is a folder or a name (the results are of all-MiniLM-L6-v2), DATA a folder with `train.tsv` and `dev.tsv`
(`label<TAB>sentence`). Every run is `sparsify train` with the same rows, epochs and learning rate; the teacher of a
seed is the dense model of that seed. Runs that are finished in OUT are not made again, so that the script can be broken
off, and `--stream I/N` makes every N-th of them, for several processes side by side. At the end each run is compared
with the dense model of its seed, sentence by sentence: difference, and McNemar's exact test over all seeds together.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Case:
    """A recipe with its variables; `teacher` where it distils."""

    name: str
    recipe: str | None
    sets: tuple[str, ...] = ()
    teacher: bool = False
    lr: str = "8e-5"


KD = ("temperature=1", "hardness=0.5")


def pair(name: str, plain: str, distilled: str, *sets: str) -> list[Case]:
    """Return a recipe without and with a teacher."""
    return [Case(name, plain, sets), Case(f"{name}, distilled", distilled, (*sets, *KD), teacher=True)]


def shallow(sparsity: float) -> list[Case]:
    """Return three layers, without (hardness 0) and with distillation."""
    sets, name = (f"sparsity={sparsity}",), f"3 layers {sparsity:.0%}"
    return [
        Case(name, "compound-3", (*sets, "hardness=0"), teacher=True),
        Case(f"{name}, distilled", "compound-3", (*sets, *KD), teacher=True),
    ]


CASES = [
    Case("dense", None),
    *pair("soft-movement 90%", "soft-movement", "soft-movement-distilled", "sparsity=0.9"),
    *pair("soft-movement 97%", "soft-movement", "soft-movement-distilled", "sparsity=0.97"),
    *shallow(0),
    *shallow(0.8),
    *shallow(0.9),
    *pair("gmp 80%", "gmp", "gmp-distilled", "sparsity=0.8"),
    *pair("gmp 90%", "gmp", "gmp-distilled", "sparsity=0.9"),
    Case("admm 90%", "admm", ("sparsity=0.9", "penalty=0.1"), lr="4e-4"),  # weights must be able to travel that far
]


def folder(out: Path, case: Case, seed: int) -> Path:
    """Return where a run lies."""
    return out / f"{case.name.replace(' ', '-').replace(',', '').replace('%', '')}-{seed}"


def command(case: Case, seed: int, arguments: argparse.Namespace) -> list[str]:
    """Return the command of a run."""
    made = folder(arguments.out, case, seed)
    words = ["train", "--task", "text-classification", "--model", arguments.model, "--out", str(made)]
    words += ["--train", str(arguments.data / "train.tsv"), "--eval", str(arguments.data / "dev.tsv")]
    words += ["--max-length", "64", "--freeze", "embeddings", "--lr", case.lr, "--epochs", str(arguments.epochs)]
    words += ["--seed", str(seed)]
    if case.recipe:
        words += ["--recipe", case.recipe, *(word for each in case.sets for word in ("--set", each))]
    if case.teacher:
        words += ["--teacher", str(folder(arguments.out, CASES[0], seed))]
    if (made / "run.json").exists():
        words.append("--resume")
    return [sys.executable, "-m", "sparsify", *words]


@torch.no_grad()
def right(model: Path, data: Path) -> list[bool]:
    """Return which sentences of dev a finished run gets right, with stock transformers."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer, network = (kind.from_pretrained(model) for kind in (AutoTokenizer, AutoModelForSequenceClassification))
    rows = [line.split("\t") for line in (data / "dev.tsv").read_text(encoding="utf-8").splitlines()]
    found: list[bool] = []
    for start in range(0, len(rows), 64):
        part = rows[start : start + 64]
        inputs = tokenizer(
            [text for _, text in part], padding=True, truncation=True, max_length=64, return_tensors="pt"
        )
        guesses = network.eval()(**inputs).logits.argmax(1).tolist()
        names = network.config.id2label
        found += [str(names[guess]) == label for guess, (label, _) in zip(guesses, part, strict=True)]
    return found


def mcnemar(ours: list[bool], theirs: list[bool]) -> float:
    """Return the two-sided exact p-value of McNemar's test for two models on the same sentences."""
    only, other = (
        sum(a and not b for a, b in pairs) for pairs in (zip(ours, theirs, strict=True), zip(theirs, ours, strict=True))
    )
    both = only + other
    tail = sum(math.comb(both, k) for k in range(min(only, other) + 1)) / 2**both
    return min(2 * tail, 1.0)


def table(arguments: argparse.Namespace, cases: list[Case]) -> str:
    """Return the table of all finished runs."""
    answers: dict[tuple[str, int], list[bool]] = {}
    for case in cases:
        for seed in arguments.seeds:
            made = folder(arguments.out, case, seed)
            if (made / "report.json").exists():
                answers[case.name, seed] = right(made, arguments.data)
    lines = ["| run | dev | seeds | of the dense | points | McNemar p | zeros |", "|---|---|---|---|---|---|---|"]
    for case in cases:
        seeds = [seed for seed in arguments.seeds if (case.name, seed) in answers and ("dense", seed) in answers]
        if not seeds:
            continue
        ours, dense = ([answers[name, seed] for seed in seeds] for name in (case.name, "dense"))
        mine, theirs = (sum(map(sum, group)) / sum(map(len, group)) for group in (ours, dense))
        p = mcnemar([x for each in ours for x in each], [x for each in dense for x in each])
        each = ", ".join(f"{sum(found) / len(found):.2%}" for found in ours)
        density: Any = json.loads((folder(arguments.out, case, seeds[0]) / "report.json").read_text())["density"]
        zeros = density["targeted"]["sparsity"] if case.recipe else 0.0
        shown = f"{mine / theirs:.2%} | {100 * (mine - theirs):+.2f} | {p:.2f} | {zeros:.2%}"
        lines.append(f"| {case.name} | {mine:.2%} | {each} | {shown} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--only", nargs="*", default=[], help="names of runs, with * and ?; `dense` is always among them"
    )
    parser.add_argument("--stream", default="0/1", help="I/N: make every N-th run, from the I-th on")
    parser.add_argument("--table", action="store_true", help="make nothing, only print what is finished")
    arguments = parser.parse_args()
    cases = [
        case
        for case in CASES
        if case is CASES[0] or not arguments.only or any(fnmatch(case.name, name) for name in arguments.only)
    ]
    number, streams = map(int, arguments.stream.split("/"))
    runs = [(case, seed) for seed in arguments.seeds for case in cases]
    for index, (case, seed) in enumerate(runs if not arguments.table else []):
        if index % streams == number and not (folder(arguments.out, case, seed) / "report.json").exists():
            teacher = folder(arguments.out, CASES[0], seed) / "report.json"
            if case.teacher and not teacher.exists():  # another stream makes it
                print(f"{case.name}, seed {seed}: its teacher is not there yet; run again", flush=True)
                continue
            print(f"{case.name}, seed {seed}", flush=True)
            subprocess.run(command(case, seed, arguments), check=True)
    print(table(arguments, cases))


if __name__ == "__main__":
    main()
