"""Servers under load, one beside the other: requests a second, and how long they take.

    python benchmarks/serve.py FOLDER[:ENGINE] … --texts FILE [--clients 1 8] [--seconds 10] [--rounds 3] [--threads N]

Each model is served by `sparsify serve` on this machine, all at once; the load goes to one after the other, in turns
(A B A B), so that a noisy machine disturbs all of them. A client sends a text, waits for the answer, sends the next.
FILE has a text a line (of `label<TAB>text`, the text). The clients run on the same cores as the servers.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit


@dataclass
class Subject:
    """A served model and what was measured of it, by number of clients."""

    name: str
    address: str
    seconds: dict[int, list[float]] = field(default_factory=dict)
    rates: dict[int, list[float]] = field(default_factory=dict)


@contextmanager
def served(word: str, threads: int) -> Iterator[Subject]:
    """Serve a model in a process of its own."""
    folder, _, engine = word.partition(":")
    command = [sys.executable, "-m", "sparsify", "serve", folder, "--port", "0", "--engine", engine or "torch"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "500"}
    command += ["--threads", str(threads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if "/predict" not in line:
                raise SystemExit(f"{word} is not served")
            yield Subject(word, next(part for part in line.split() if part.startswith("http")))
        finally:
            process.terminate()


def client(address: str, texts: list[str], until: float, seed: int, found: list[float]) -> None:
    """Ask, one text after the other, over one connection."""
    place, chance = urlsplit(address), random.Random(seed)
    connection = http.client.HTTPConnection(place.hostname or "", place.port)
    while time.perf_counter() < until:
        body = json.dumps({"inputs": chance.choice(texts)})
        began = time.perf_counter()
        connection.request("POST", place.path, body)
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{address}: {answer.status}: {said.decode()}")
        found.append(time.perf_counter() - began)


def load(subject: Subject, texts: list[str], clients: int, seconds: float, seed: int) -> None:
    """Measure one turn."""
    parts: list[list[float]] = [[] for _ in range(clients)]
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        turns = [
            pool.submit(client, subject.address, texts, began + seconds, seed + index, part)
            for index, part in enumerate(parts)
        ]
    for turn in turns:
        turn.result()
    took, found = time.perf_counter() - began, [each for part in parts for each in part]
    subject.seconds.setdefault(clients, []).extend(found)
    subject.rates.setdefault(clients, []).append(len(found) / took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="FOLDER[:ENGINE]")
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    texts = [line.rpartition("\t")[2] for line in arguments.texts.read_text(encoding="utf-8").splitlines()]
    with ExitStack() as stack:
        subjects = [stack.enter_context(served(word, arguments.threads)) for word in arguments.models]
        for clients in arguments.clients:
            for turn in range(arguments.rounds + 1):
                for subject in subjects:
                    load(subject, texts, clients, arguments.seconds if turn else 1, seed=1000 * turn)
                    if not turn:  # to warm up
                        subject.seconds, subject.rates = {}, {}
            print(table(subjects, clients), flush=True)


def table(subjects: list[Subject], clients: int) -> str:
    """Return a line a model; the first is what the others are compared with."""
    lines = [f"{clients} clients", "| model | requests/s | times | p50 | p99 |", "|---|---|---|---|---|"]
    first = statistics.median(subjects[0].rates[clients])
    for subject in subjects:
        rate, seconds = statistics.median(subject.rates[clients]), sorted(subject.seconds[clients])
        p50, p99 = (1000 * seconds[int(part * (len(seconds) - 1))] for part in (0.5, 0.99))
        lines.append(f"| {subject.name} | {rate:.1f} | {rate / first:.2f} | {p50:.1f} ms | {p99:.1f} ms |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
