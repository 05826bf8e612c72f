"""`sparsify serve` as a process: it answers, stops in good order, and says what is wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sparsify.cli.app import app


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Yield a server and its address."""
    command = [sys.executable, "-m", "sparsify", "serve", *arguments, "--port", "0", "--engine", "torch"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "/predict" in line, process.communicate()
            yield process, next(word for word in line.split() if word.startswith("http")).rpartition("/")[0]
        finally:
            process.kill()


def ask(address: str, inputs: object) -> object:
    request = urllib.request.Request(f"{address}/predict", json.dumps({"inputs": inputs}).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.parametrize(("number", "packed"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_it_answers_and_stops_in_good_order(folder: Path, tmp_path: Path, number: signal.Signals, packed: bool):
    path = folder
    if packed:
        from sparsify.storage import pack

        pack(folder, path := tmp_path / "model.sparse")
    with running(str(path)) as (process, address):
        answer = ask(address, ["a fine film", "a dull song"])
        assert isinstance(answer, list)
        assert [set(each) for each in answer] == [{"label", "score"}] * 2
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out.strip(), err) == (0, "stopped", "")


def test_what_cannot_be_served(folder: Path, tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        found = run("serve", str(folder), "--port", port)
    assert found.exit_code == 1
    assert f"cannot listen at 127.0.0.1:{port}: Address already in use" in found.stderr
    found = run("serve", str(folder), "--port", "0", "--task", "fill-mask")
    assert (found.exit_code, "holds a BertForSequenceClassification: it does text-classification" in found.stderr) == (
        1,
        True,
    )
    found = run("serve", str(tmp_path), "--port", "0")
    assert (found.exit_code, "config.json" in found.stderr) == (1, True)
    found = run("serve", str(folder), "--engine", "spars")
    said = " ".join(found.stderr.replace("│", " ").split())
    assert (found.exit_code, "'spars' is not one of the choices (did you mean 'sparse'?)" in said) == (2, True)
    found = run("serve", str(folder), "--host", "no.such.host.invalid")
    assert (found.exit_code, "cannot listen at no.such.host.invalid" in found.stderr) == (1, True)
