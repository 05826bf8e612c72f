"""Data as users have it: every format, and every way in which a file can be wrong."""

from __future__ import annotations

import gzip
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from sparsify.errors import DataError
from sparsify.train import image, reading, table
from sparsify.train.columns import IMAGES, TEXTS, choose, known_names
from sparsify.train.labels import labels_of
from sparsify.train.order import Ordered, bucketed
from sparsify.train.table import Table
from tests.tiny import rows

ROWS = rows(20, seed=0)


def read(path: Path | str, *inputs: str, label: str | None = None) -> Table:
    return table.read(str(path), "train", known_names(label, inputs, TEXTS))


def chosen(found: Table, *inputs: str, label: str | None = None) -> tuple[str, tuple[str, ...]]:
    columns = choose(found, label, inputs, TEXTS, "--text-column")
    return columns.label, columns.inputs


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def pairs(found: Table) -> list[tuple[int, str]]:
    label, (text,) = chosen(found)
    return [(int(a), b) for a, b in zip(found.columns[label], found.columns[text], strict=True)]


def files(folder: Path) -> dict[str, Path]:
    """Return the same rows in every format."""
    import datasets

    lines = "".join(f"{label}\t{text}\n" for label, text in ROWS)
    csv = "text,label\n" + "".join(f'"{text}",{label}\n' for label, text in ROWS)
    objects = [{"sentence": text, "label": label} for label, text in ROWS]
    made = {
        "tsv without header": write(folder / "plain.tsv", lines),
        "tsv with header": write(folder / "header.tsv", "label\tsentence\n" + lines),
        "csv": write(folder / "a.csv", csv),
        "csv with a byte-order mark": write(folder / "bom.csv", b"\xef\xbb\xbf" + csv.encode()),
        "csv without header": write(folder / "plain.csv", "".join(csv.splitlines(keepends=True)[1:])),
        "csv, packed": write(folder / "a.csv.gz", gzip.compress(csv.encode())),
        "windows line ends": write(folder / "crlf.csv", csv.replace("\n", "\r\n")),
        "blank lines": write(folder / "blank.csv", csv.replace("\n", "\n\n")),
        "json lines": write(folder / "a.jsonl", "\n".join(json.dumps(row) for row in objects)),
        "json array": write(folder / "a.json", json.dumps(objects)),
    }
    data = datasets.Dataset.from_list(objects)
    made["parquet"] = folder / "a.parquet"
    data.to_parquet(str(made["parquet"]))
    made["dataset folder"] = folder / "saved"
    datasets.DatasetDict({"train": data, "validation": data}).save_to_disk(str(made["dataset folder"]))
    made["folder of files"] = folder / "hub"
    made["folder of files"].mkdir()
    data.to_parquet(str(made["folder of files"] / "train.parquet"))
    return made


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    for name, path in files(tmp_path).items():
        assert pairs(read(path)) == ROWS, name


def test_only_line_ends_end_lines(tmp_path: Path) -> None:
    odd = "form\x0cfeed, next\x85line, line\u2028separator"
    path = write(tmp_path / "a.tsv", f"1\t{odd}\n0\tplain\n1\tmore\n0\tlast\n")
    assert pairs(read(path))[0] == (1, odd)
    with pytest.raises(DataError, match=r"a\.tsv:2: 1 fields"):
        read(write(tmp_path / "a.tsv", f"1\t{odd}\nshort\n"))


def test_a_split_can_be_named(tmp_path: Path) -> None:
    folder = files(tmp_path)["dataset folder"]
    assert len(table.read(f"{folder}@validation", "train", [])) == len(ROWS)
    assert len(table.read(str(folder), "eval", [])) == len(ROWS)
    with pytest.raises(DataError, match=r"no split 'valid' \(did you mean 'validation'\?\)"):
        table.read(f"{folder}@valid", "train", [])


def test_pairs_of_texts_and_named_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.tsv", "premise\thypothesis\tlabel\ta b\tc\n".replace("\ta b\tc", "") + "a b\tc\tyes\nd\te f\tno\n"
    )
    assert chosen(read(path)) == ("label", ("premise", "hypothesis"))
    assert chosen(read(path), "hypothesis") == ("label", ("hypothesis",))
    wide = write(tmp_path / "wide.tsv", "1\tfirst\tx\n0\tsecond\ty\n")
    assert chosen(read(wide, "1", label="0"), "1", label="0") == ("0", ("1",))


BAD: dict[str, tuple[str, str | bytes, str]] = {
    "empty": ("a.tsv", "", r"a\.tsv: the file is empty"),
    "empty json": ("a.jsonl", "", r"a\.jsonl: the file is empty"),
    "header only": ("a.csv", "text,label\n", r"there are no rows"),
    "Latin-1": ("a.tsv", "1\tfine\n0\tcaf\xe9\n".encode("latin-1"), r"a\.tsv:2: not UTF-8 \(byte 0xe9; perhaps Latin-1"),
    "UTF-16": ("a.tsv", "1\tfine\n".encode("utf-16"), r"a\.tsv:1: not UTF-8 .*UTF-16"),
    "too narrow": ("a.tsv", "1\tfine\n0\n", r"a\.tsv:2: 1 fields, but line 1 has 2"),
    "too wide": ("a.csv", 'label,text\n1,"a, b"\n0,c,d\n', r"a\.csv:3: 3 fields, but line 1 has 2"),
    "open quote": ("a.csv", 'label,text\n1,fine\n0,"never closed\n', r"a\.csv:3: unexpected end of data"),
    "no json": ("a.jsonl", '{"text": "a", "label": 1}\n{"text": }\n', r"a\.jsonl:2:10: not JSON"),
    "no object": ("a.jsonl", '{"text": "a", "label": 1}\n[1]\n', r"a\.jsonl:2: expected an object"),
    "a key twice": ("a.jsonl", '{"text": "a", "label": 1}\n\n{"label": 1, "label": 0}\n', r"a\.jsonl:3:1: not JSON: the key 'label' is there twice"),
    "a column twice": ("a.csv", "text,label, label\na,1,0\n", r"a\.csv:1: two columns are called 'label'"),
    "the header again": ("a.tsv", "text\tlabel\na\t1\ntext\tlabel\n", r"a\.tsv:3: the header of line 1 once more"),
    "UTF-16 without a mark": ("a.tsv", "1\tfine\n".encode("utf-16-le"), r"a\.tsv:1: a NUL byte"),
    "keys of each row": ("a.jsonl", "\n".join(f'{{"k{n}": 1}}' for n in range(1001)), r"1,001 different keys"),
    "no parquet": ("a.parquet", "hello", r"a\.parquet is not a parquet file"),
    "broken archive": ("a.csv.gz", "hello", r"a\.csv\.gz cannot be read"),
    "unknown kind": ("a.xlsx", "hello", r"a\.xlsx: unknown kind of file"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_its_place(tmp_path: Path, name: str) -> None:
    file, content, message = BAD[name]
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / file, content))


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", "1\ta\n")
    with pytest.raises(DataError, match=r"no such file \(did you mean '.*train\.tsv'\?\)"):
        read(tmp_path / "trian.tsv")
    with pytest.raises(DataError, match="no such file or folder"):
        read("./nowhere/at/all")


def test_a_hub_name_without_a_network_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="a dataset of that name cannot be loaded"):
        read("no-such-owner/no-such-dataset")


COLUMNS: dict[str, tuple[str, dict[str, Any], str]] = {
    "label": (
        "text,kind\na,b\nc,d\n",
        {},
        r"which column is the label; columns: text, kind; name it with --label-column",
    ),
    "input": ("label,remark\n1,b\n0,d\n", {}, r"which column is the input; columns: label, remark"),
    "unknown": ("label,text\n1,b\n0,d\n", {"inputs": ("txt",)}, r"there is no column 'txt' \(did you mean 'text'\?\)"),
    "no header": ("1,a,b\n0,c,d\n", {}, r"which column is the label; columns \(there is no header\): 0, 1, 2"),
    "alike": ("a,b\nc,d\n", {}, r"which column is the label"),
    "an input twice": ("text,label\na,1\n", {"inputs": ("text", "text")}, r"--text-column text is given twice"),
    "three inputs": (
        "text,b,c,label\na,b,c,1\n",
        {"inputs": ("text", "b", "c")},
        r"given 3 times: a pair has two columns",
    ),
    "label as input": ("a,1\nb,0\n", {"inputs": ("0",), "label": "0"}, r"both name '0'"),
    "out of range": (
        "a,1\nb,0\n",
        {"label": "2"},
        r"there is no column '2': there is no header, so columns are called 0 to 1",
    ),
    "a number for a name": (
        "text,label\nb,0\n",
        {"label": "1"},
        r"no column '1' \(one of: label, text\); the first line is a header",
    ),
    "label and Label": ("text,label,Label\nb,0,1\n", {}, r"'label' and 'Label' only differ in capitals"),
    "no texts": (",1\n,0\n,1\n,0\n", {}, r"a\.csv: column number 0 is empty in every row"),
    "no texts under a header": ("text,label\n ,1\n,0\n", {}, r"a\.csv: column 'text' is empty in every row"),
    "semicolons": ("a;1\nb;0\n", {}, r"columns \(there is no header\): 0; fields of csv are divided by commas"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_that_cannot_be_told_apart_are_asked_for(tmp_path: Path, name: str) -> None:
    text, options, message = COLUMNS[name]
    found = read(write(tmp_path / "a.csv", text))
    with pytest.raises(DataError, match=message):
        chosen(found, *options.get("inputs", ()), label=options.get("label"))


def labelled(values: list[Any], **more: Any) -> Table:
    return Table("a.tsv", {"label": values, "text": ["x"] * len(values)}, lines=range(1, len(values) + 1), **more)


def test_labels_are_numbered_as_the_model_does() -> None:
    model = {0: "positive", 1: "negative"}
    assert labels_of(labelled(["negative", "positive", "negative"]), "label", model).names == ("positive", "negative")
    assert labels_of(labelled(["b", "a", "c", "a"]), "label", model).names == ("a", "b", "c")
    assert labels_of(labelled([10, 9, 2, 10]), "label", model).names == ("2", "9", "10")
    assert labels_of(labelled([1.0, 0.0, 1.0]), "label", model).names == ("0", "1")
    assert labels_of(labelled([True, False, True]), "label", model).names == ("False", "True")
    named = labelled([1, 0, 1], classes={"label": ["no", "yes"]})
    labels = labels_of(named, "label", model)
    assert labels.names == ("no", "yes")
    assert labels.encode(named, "label") == [1, 0, 1]


def test_bad_labels_are_refused_with_their_place() -> None:
    labels = labels_of(labelled(["good", "bad", "good"]), "label", {})
    with pytest.raises(DataError, match=r"a\.tsv:2: the label 'god' does not occur .*did you mean 'good'"):
        labels.encode(labelled(["bad", "god"]), "label")
    with pytest.raises(DataError, match=r"a\.tsv:3: the label is empty"):
        labels_of(labelled(["good", "bad", ""]), "label", {})
    with pytest.raises(DataError, match=r"a\.tsv:2: the label is empty"):
        labels.encode(labelled(["good", None]), "label")
    with pytest.raises(DataError, match="all rows have the label 'good'"):
        labels_of(labelled(["good"] * 3), "label", {})
    with pytest.raises(DataError, match="5 different labels in 5 rows"):
        labels_of(labelled(list("abcde")), "label", {})
    with pytest.raises(DataError, match="29 different labels in 30 rows: is 'label' the label"):
        labels_of(labelled([max(number, 1) for number in range(30)]), "label", {})
    for value in ([1], {"a": 1}, b"x"):
        with pytest.raises(DataError, match=r"a\.tsv:2: the label is .*, not one value"):
            labels_of(labelled([1, value, 0]), "label", {})
    with pytest.raises(
        DataError, match=r"a\.tsv:3: the label is True, but a\.tsv:1 has 1: true and false are not mixed"
    ):
        labels_of(labelled([1, 0, True]), "label", {})
    assert labels_of(labelled([1, "1", " 1", 1.0, 0]), "label", {}).names == ("0", "1")


def test_the_order_is_a_shuffle_in_batches_of_like_lengths() -> None:
    import torch

    lengths = [(7 * i) % 50 for i in range(1000)]
    order = bucketed(lengths, 8, torch.Generator().manual_seed(0))
    assert sorted(order) == list(range(1000))
    spreads = [max(part) - min(part) for part in ([lengths[i] for i in order[s : s + 8]] for s in range(0, 1000, 8))]
    assert sum(spreads) / len(spreads) < 6, "in a plain shuffle they would be about 40"
    starts = [lengths[order[s]] for s in range(0, 1000, 8)]
    assert starts != sorted(starts), "the batches themselves are shuffled"


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    import torch

    data = Ordered(list(range(100)), 8, seed=3)
    first = [data[i] for i in range(100)]
    torch.rand(5)
    data.set_epoch(1)
    second = [data[i] for i in range(100)]
    data.set_epoch(0)
    assert [data[i] for i in range(100)] == first
    assert second != first
    assert sorted(second) == list(range(100))
    assert [Ordered(list(range(100)), 8, seed=4)[i] for i in range(100)] != first


def test_a_short_batch_comes_last() -> None:
    import torch

    order = bucketed([1] * 21, 8, torch.Generator().manual_seed(0))
    assert len(order) == 21


def test_images_in_folders_tables_and_bytes(tmp_path: Path) -> None:
    from PIL import Image

    for number, name in enumerate(("cat", "dog", "cat")):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 80 * number).save(folder / f"{number}.png")
    found = image.read(str(tmp_path / "data"), "train", [])
    assert list(found.columns["label"]) == ["cat", "cat", "dog"]
    listed = write(tmp_path / "list.csv", "file_name,label\ndata/cat/0.png,cat\ndata/dog/1.png,dog\n")
    again = image.read(str(listed), "train", known_names(None, (), IMAGES))
    assert choose(again, None, (), IMAGES, "--image-column").inputs == ("file_name",)
    opened = image._open(again.columns["file_name"][1], listed.parent)
    assert opened.size == (8, 8)
    raw = (tmp_path / "data" / "cat" / "0.png").read_bytes()
    assert image._open({"bytes": raw, "path": None}, tmp_path).size == (8, 8)


def packed(names: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in names.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def test_an_archive_holds_one_file(tmp_path: Path) -> None:
    text = "text,label\n" + "".join(f'"{text}",{label}\n' for label, text in ROWS)
    plain = write(tmp_path / "a.zip", packed({"data/": "", "data/train.csv": text, "__MACOSX/data/._train.csv": "x"}))
    assert pairs(read(plain)) == ROWS, "folders, and what macOS adds, are no files"
    two = write(tmp_path / "b.csv.zip", packed({"train.csv": text, "dev.csv": text}))
    with pytest.raises(DataError, match=r"2 files in the archive \(train\.csv, dev\.csv\): unpack it"):
        read(two)


def test_what_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LARGEST", 1000)
    text = "text,label\n" + "a,1\n" * 1000
    for path in (
        write(tmp_path / "a.csv.gz", gzip.compress(text.encode())),
        write(tmp_path / "a.csv.zip", packed({"a.csv": text})),
        write(tmp_path / "a.csv", text),
    ):
        with pytest.raises(DataError, match=r"more than 1,000 bytes \(unpacked\)"):
            read(path)


def test_a_row_may_lack_what_nobody_asks_for(tmp_path: Path) -> None:
    lines = [
        '{"text": "a b", "label": 1, "id": 7}',
        '{"label": 0, "text": "c"}',
        '{"text": "d", "label": 1, "note": "x"}',
    ]
    found = read(write(tmp_path / "a.jsonl", "\n".join(lines)))
    assert pairs(found) == [(1, "a b"), (0, "c"), (1, "d")]
    assert list(found.columns["note"]) == [None, None, "x"]
    with pytest.raises(DataError, match=r"a\.jsonl:2: there is no 'id', which other rows have"):
        table.text_in(Table(found.name, {"id": ["7", None]}, found.lines), "id", 1)


def test_columns_without_a_name_are_called_by_their_number(tmp_path: Path) -> None:
    found = read(write(tmp_path / "a.csv", ",text,,label\n0,a,x,1\n1,b,y,0\n"))
    assert list(found.columns) == ["0", "text", "2", "label"]
    assert chosen(found, "2") == ("label", ("2",))


def test_a_text_without_end_is_refused_before_it_is_cut_into_tokens(tmp_path: Path) -> None:
    long = write(tmp_path / "a.csv", "text,label\nfine,1\n" + "x " * 500_001 + ",0\n")
    found = read(long)
    with pytest.raises(DataError, match=r"a\.csv:3: a text of 1,000,002 characters, of at most 1,000,000"):
        table.text_in(found, "text", 1)


ODD: dict[str, tuple[str, bytes]] = {
    "zip without a file": ("a.csv.zip", packed({})),
    "zip of folders": ("a.csv.zip", packed({"folder/": ""})),
    "zip that is none": ("a.csv.zip", b"PK no archive"),
    "zip cut short": ("a.csv.zip", packed({"a.csv": "text,label\nx,1\n" * 100})[:60]),
    "gzip that is none": ("a.csv.gz", b"plain"),
    "gzip cut short": ("a.csv.gz", gzip.compress(b"text,label\nx,1\n" * 100)[:20]),
    "gzip with an error inside": ("a.csv.gz", gzip.compress(os.urandom(4000))[:2000] + b"x" * 2000),
    "xz that is none": ("a.csv.xz", b"plain"),
    "bz2 that is none": ("a.csv.bz2", b"plain"),
    "brackets": ("a.json", b"[" * 100_000),
    "brackets in a line": ("a.jsonl", b'{"a":' * 100_000),
    "half a pair as a label": ("a.jsonl", b'{"text": "a", "label": "\\ud800"}\n{"text": "b", "label": "x"}'),
    "parquet that is none": ("a.parquet", b"PAR1PAR1"),
}


@pytest.mark.parametrize("kind", ODD)
def test_a_file_that_holds_no_data_is_one_error(tmp_path: Path, kind: str) -> None:
    name, data = ODD[kind]
    path = write(tmp_path / name, data)

    def labels() -> None:
        found = read(path)
        labels_of(found, chosen(found)[0], {})

    with pytest.raises(DataError, match=name):
        labels()


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.parquet", "a.csv.gz", "pipe", "a.txt"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    sources = [str(path), f"file://{path}"] if name in ("a.csv", "a.json") else [str(path)]
    for source in sources:
        with pytest.raises(DataError, match=name):
            read(source)


def test_a_kind_of_address_that_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere://x.csv cannot be read"):
        read("nowhere://x.csv")


@pytest.mark.parametrize("kind", ["pipe", "loop"])
def test_an_image_that_is_a_pipe_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    (tmp_path / "cats").mkdir()
    path = tmp_path / "cats" / "1.png"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to(path)
    with pytest.raises(DataError, match=r"cats/1\.png: no image that can be read"):
        image.read(str(tmp_path), "train", [])
