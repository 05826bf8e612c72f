"""Drawings of what died: exact hints, escaped names, bounded sizes."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from sparsify.anatomy import read
from sparsify.report import marks
from sparsify.report.bars import bars
from sparsify.report.cards import MOST_ROWS, cards
from sparsify.report.cells import cells_of
from sparsify.report.curves import Curves
from sparsify.report.dots import LEVELS, opacity, png
from sparsify.report.drawn import MOST_DOWN, MOST_MAPS, Maps, Place, choose
from sparsify.report.figures import BLUE
from sparsify.report.folder import read as report
from sparsify.report.living import Living, Units
from sparsify.report.maps import MOST_HINTS, SHADES, drawn_maps
from sparsify.report.page import page
from sparsify.report.picture import draw
from sparsify.report.punched import punched
from sparsify.report.structure import Structure
from sparsify.report.widths import widths
from tests.compaction.dead import empty_rows, kill
from tests.experts import mixtral
from tests.hostile import NASTY, harmless
from tests.models import build
from tests.report.test_report import call
from tests.test_escaping import Words


def hints(drawing: str) -> list[str]:
    return re.findall(r"<title>(.*?)</title>", drawing)


def heads(layer: str, dead: tuple[int, ...], total: int = 4, groups: int = 0) -> Units:
    return Units("heads", "", layer, "", total, dead, groups)


def neurons(layer: str, dead: int, total: int, block: str = "") -> Units:
    return Units("neurons", "", layer, block, total, tuple(range(dead)))


def test_a_card_has_a_hole_for_every_dead_head() -> None:
    (card,), note = cards(Living((heads("0", ()), heads("1", (1, 2), groups=2), heads("2", (2, 3), groups=2))))
    drawing = punched(card)
    assert note == ""
    assert drawing.count('class="hole"') == 4
    found = hints(drawing)
    assert found[:4] == [f"layer 0, head {head}: alive" for head in range(4)]
    assert found.count("layer 1, head 2: dead") == 2, "the place and the hole in it"
    assert [hint for hint in found if "key/value" in hint] == [
        "layer 1, key/value head 0: alive", "layer 1, key/value head 1: alive",
        "layer 2, key/value head 0: alive", "layer 2, key/value head 1: dead",
    ]  # fmt: skip
    assert ">2 of 4<" in drawing


def test_every_kind_of_block_has_a_card() -> None:
    blocks = [Units("heads", "decoder", f"decoder {n}", name, 2, (0,)) for n in range(2) for name in ("self", "cross")]
    found, _ = cards(Living(tuple(blocks)))
    assert [(card.name, len(card.rows)) for card in found] == [("decoder self", 2), ("decoder cross", 2)]
    assert cards(Living((heads("0", ()),))) == ([], ""), "nothing died"


def test_bars_add_the_blocks_of_a_layer() -> None:
    living = Living(tuple(neurons(f"{n // 6}", n % 6, 100, f"expert {n % 6}") for n in range(12)))
    found = widths(living, "neurons")
    assert found is not None
    assert [(each.alive, each.total) for each in found.layers] == [(585, 600)] * 2
    assert found.layers[1].hint == (
        "layer 1: 585 of 600 neurons alive: expert 0 100 of 100, expert 1 99 of 100, expert 2 98 of 100, "
        "expert 3 97 of 100, … (6 blocks)"
    )
    assert hints(bars(found)).count(found.layers[1].hint) == 2
    assert widths(living, "heads") is None


def test_maps_tell_the_density_under_the_pointer() -> None:
    cube = torch.zeros(384, 1, 128, dtype=torch.bool)
    cube[:32, :, 32:36] = True
    place = Place("", "3", "", "attention.query")
    many = tuple((Place("", f"{n}", "", "ffn.up"), cells_of(~cube)) for n in range(20))
    ((stack, drawing),) = drawn_maps(Maps(((place, cells_of(cube)), *many)))
    assert stack == ""
    found = [hint for hint in hints(drawing) if hint.startswith("layer 3 query, ")]
    assert "layer 3 query, rows 0–31 × columns 32–39: 50 % not zero" in found
    assert "layer 3 query, rows 352–383 × columns 120–127: 0 % not zero" in found
    assert len(hints(drawing)) <= MOST_HINTS


def test_a_picture_has_a_pixel_for_every_cell() -> None:
    density = torch.tensor([[0.0, 1e-9, 0.25], [1.0, 0.5, 0.0]])
    image = Image.open(io.BytesIO(png(density, BLUE))).convert("RGBA")
    assert image.size == (3, 2)
    pixels = [[image.getpixel((x, y)) for x in range(3)] for y in range(2)]
    alpha = [[pixel[3] for pixel in row] for row in pixels]
    assert {pixel[:3] for row in pixels for pixel in row} == {tuple(bytes.fromhex(BLUE[1:]))}
    assert (alpha[0][0], alpha[1][0], alpha[1][2]) == (0, 255, 0)
    assert 0 < alpha[0][1] < alpha[0][2] < alpha[1][1] < 255, "what is not empty never looks empty"
    wanted = (255 * opacity(density)).tolist()
    assert all(
        abs(a - w) <= 255 / (LEVELS - 1)
        for row, want in zip(alpha, wanted, strict=True)
        for a, w in zip(row, want, strict=True)
    )


def test_names_are_escaped() -> None:
    nasty = f"<script>{NASTY}</script>" + "x" * 500
    units = (Units("heads", nasty, nasty, nasty, 4, (1,), 2), Units("neurons", nasty, nasty, nasty, 9, (1,)))
    cube = torch.zeros(4, 1, 4, dtype=torch.bool)
    structure = Structure(Living(units), Maps(((Place(nasty, nasty, nasty, "ffn.up"), cells_of(cube)),), (nasty,)))
    sections = structure.sections()
    assert [section.heading for section in sections] == ["Heads", "Width: heads", "Width: neurons", "Blocks"]
    text = page(nasty, nasty, [(("", ""), structure.facts())], "<svg></svg>", [], figures=sections)
    words = Words()
    words.feed(text)
    assert "script" not in words.tags
    assert harmless(text)
    text.encode()
    assert draw(nasty, Curves(), {}, None, structure.panels()).png.startswith(b"\x89PNG")


def test_two_hundred_layers_are_bounded() -> None:
    from transformers import BertConfig, BertModel

    layers = 200
    config = BertConfig(
        hidden_size=32, num_hidden_layers=layers, num_attention_heads=16, intermediate_size=64, vocab_size=40
    )
    with torch.device("meta"):
        anatomy = read(BertModel(config))
    assert anatomy is not None
    chosen = choose(anatomy)
    units = [*(heads(f"{n}", (n % 16,), 16) for n in range(layers)), *(neurons(f"{n}", 3, 64) for n in range(layers))]
    cells = cells_of(torch.rand(512, 1, 512, generator=torch.Generator().manual_seed(0)) < 0.5)
    many = Structure(Living(tuple(units)), Maps(tuple((place, cells) for place, _ in chosen.places), chosen.notes))
    assert len(many.maps.maps) == MOST_DOWN * 6 <= MOST_MAPS
    assert [place.layer for place, _ in many.maps.maps[::6]][:2] == ["0", "8"]
    assert many.maps.maps[-1][0].layer == "199"
    drawn = "".join(drawing for section in many.sections() for _, drawing in section.drawings)
    assert drawn.count('class="hole"') == MOST_ROWS
    assert "24 of 200 layers are drawn" in many.sections()[-1].lead
    assert "64 of 200 attention blocks are drawn" in many.sections()[0].lead
    assert len(drawn) < 2_500_000
    assert sum(panel.height for panel in many.panels()) < 60, "inches"
    assert "…" in dict(many.facts())["heads"]
    assert len(dict(many.facts())["heads"]) < 250


def test_many_matrices_of_a_layer_are_bounded() -> None:
    anatomy = read(mixtral())
    assert anatomy is not None
    found = choose(anatomy)
    assert found.notes == ("the first 12 of up to 16 matrices of a layer are drawn",)
    assert len(found.places) == 24


def test_the_page_and_the_picture_of_a_folder(tmp_path: Path) -> None:
    """With nothing loaded from anywhere, and the same numbers in the page as in the files."""
    model = build("llama")
    with torch.no_grad():
        kill(model)
        query = model.model.layers[1].self_attn.q_proj.weight
        query[:] = 0
        query[5, 7] = 1
    model.save_pretrained(tmp_path / "model")
    html, picture = tmp_path / "report.html", tmp_path / "report.png"
    call("report", str(tmp_path / "model"), "--html", str(html), "--png", str(picture))
    text = html.read_text()
    for heading in ("Heads", "Width: heads", "Width: neurons", "Blocks"):
        assert f"<h2>{heading}</h2>" in text
    assert "prefers-color-scheme: dark" in text
    found = hints(text)
    assert "layer 0, head 0: dead" in found
    first = [hint for hint in found if hint.startswith("layer 1 query, rows")]
    (one,) = [hint for hint in first if not hint.endswith(" 0 % not zero")]
    top, bottom, left, right = map(int, re.findall(r"\d+", one.partition("rows")[2])[:4])
    assert top <= 5 <= bottom
    assert left <= 7 <= right
    drawn = text[text.index("<h2>Heads</h2>") :]  # above it is the picture, with a bar of colours
    images = re.findall(r"data:image/png;base64,([^\"]+)", drawn)
    assert len(images) == 2 * 7 + len(SHADES)
    assert Image.open(io.BytesIO(base64.b64decode(images[0]))).size == (32, 32)
    made = report(tmp_path / "model").picture().make
    lower, higher = made(False).get_figheight(), made(True).get_figheight()
    assert higher > lower + 3, "inches"
    assert Image.open(io.BytesIO(picture.read_bytes())).size == (1200, int(120 * higher))
    assert "optimizer step" not in text, "there is no training to draw"


def test_wide_drawings_scroll_and_narrow_ones_grow() -> None:
    drawing = marks.drawing(300, 10, "a name", [])
    assert "min-width:300px;max-width:480px" in drawing
    assert drawing.startswith('<div class="wide">')


def test_only_rows_of_convolutions(tmp_path: Path) -> None:
    model = build("resnet")
    anatomy = read(model)
    assert anatomy is not None
    with torch.no_grad():
        empty_rows(anatomy.layers[2].others[0][1], torch.tensor([0]))
    model.save_pretrained(tmp_path)
    (section,) = report(tmp_path).structure.sections()
    assert section.heading == "Width: channels"
    assert any("layer 2: 47 of 48 channels alive" in hint for hint in hints(section.drawings[0][1]))


@pytest.mark.parametrize("total", [1, 40, 129])
def test_cards_of_any_width(total: int) -> None:
    (card,), _ = cards(Living((heads("0", (0,), total),)))
    assert punched(card).count('class="card"') == total
