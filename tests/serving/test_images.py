"""Images over HTTP: answers, and what is refused before it is decoded."""

from __future__ import annotations

import base64
import io
import json
import struct
import threading
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from sparsify import engine
from sparsify.serving.app import make_app
from sparsify.serving.limits import Limits
from sparsify.serving.model import Served
from tests import tiny
from tests.serving.test_command import running

LIMITS = Limits(batch=4, texts=5, body=20_000, pixels=5_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small ViT and a head for three classes."""
    from transformers import AutoConfig, AutoModelForImageClassification

    folder = tmp_path_factory.mktemp("images")
    tiny.image_model(folder)
    torch.manual_seed(1)
    config = AutoConfig.from_pretrained(folder, num_labels=3)
    AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[TestClient]:
    with TestClient(make_app(served, LIMITS)) as made:
        yield made


def picture(width: int = 10, height: int = 12, kind: str = "PNG", seed: int = 0, mode: str = "L") -> str:
    noise = torch.randint(0, 256, (width * height * len(mode),), generator=torch.Generator().manual_seed(seed))
    made = io.BytesIO()
    Image.frombytes(mode, (width, height), bytes(noise.tolist())).save(made, kind)
    return base64.b64encode(made.getvalue()).decode()


def bomb(width: int, height: int) -> str:
    """Return a PNG that says how large it is, and holds no more than that."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return base64.b64encode(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    ).decode()


def test_answers_are_the_models(client: TestClient, served: Served):
    images = [picture(seed=number, kind=kind) for number, kind in enumerate(("PNG", "BMP", "GIF"))]
    answers = client.post("/predict", json={"inputs": images, "parameters": {"top_k": 3}}).json()
    processor, model = served.run.image_processor, served.run.model
    for image, answer in zip(images, answers, strict=True):
        opened = Image.open(io.BytesIO(base64.b64decode(image))).convert("L")
        with torch.inference_mode():
            logits = model(**processor(images=opened, return_tensors="pt")).logits[0]
        wanted = {model.config.id2label[number]: float(score) for number, score in enumerate(logits.softmax(-1))}
        assert {each["label"]: each["score"] for each in answer} == pytest.approx(wanted, abs=1e-5)
    url = f"data:image/png;base64,{images[0]}"
    assert client.post("/predict", json={"inputs": url, "parameters": {"top_k": 1}}).json() == [
        {"label": answers[0][0]["label"], "score": pytest.approx(answers[0][0]["score"], abs=1e-5)}
    ]
    colours = client.post("/predict", json={"inputs": picture(mode="RGB")})
    assert colours.status_code == 200, "they become what the model takes"


@pytest.mark.parametrize(
    ("inputs", "status", "said"),
    [
        ("no base64!", 422, "inputs[0] is no base64 of an image"),
        (["data:image/png;base64,", picture()], 422, "inputs[0] is no image (JPEG, PNG, WEBP, GIF, BMP)"),
        ([picture(), base64.b64encode(b"%PDF-1.4").decode()], 422, "inputs[1] is no image"),
        (picture()[:80], 422, "inputs[0] is an image that is damaged"),
        (picture(kind="TIFF"), 422, "is no image"),
        (bomb(100, 60), 422, "the images have 6,000 pixels; at most 5,000"),
        ([bomb(50, 60), bomb(50, 60)], 422, "the images have 6,000 pixels"),
        (bomb(60_000, 60_000), 422, "pixels"),
        (picture() + "A" * 30_000, 413, "more than 20,000 bytes"),
        ([picture()] * 6, 413, "6 inputs; at most 5"),
    ],
    ids=range(10),
)
def test_what_is_no_image_or_too_large_is_refused(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, inputs: Any, status: int, said: str
):
    if "pixels" in said:
        monkeypatch.setattr(Image.Image, "convert", None)
    answer = client.post("/predict", json={"inputs": inputs})
    assert (answer.status_code, said in answer.json()["error"]) == (status, True), answer.text


def test_a_bad_image_does_not_spoil_others_on_a_real_socket(folder: Path):
    with running(str(folder)) as (process, address):
        found: dict[int, Any] = {}

        def ask(number: int) -> None:
            inputs = bomb(9_000, 9_000) if number % 3 == 0 else picture(seed=number)
            request = urllib.request.Request(f"{address}/predict", json.dumps({"inputs": inputs}).encode())
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    found[number] = len(json.load(answer))
            except urllib.error.HTTPError as error:
                found[number] = error.code

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        process.terminate()
        assert process.wait(30) == 0
    assert found == {number: 422 if number % 3 == 0 else 3 for number in range(9)}


@pytest.mark.skipif(engine.missing() is not None, reason="the engine is not compiled")
def test_the_sparse_engine_tries_itself_on_images(folder: Path):
    served = Served.open(folder)
    assert (served.task, served.engine, served.warm()) == ("image-classification", "sparse", None)
