"""Damaged and hostile packed files, made of a good one: noise, cuts, and headers that lie under right checksums."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import zstandard

from sparsify.errors import SparsifyError
from sparsify.storage import PackedFile
from sparsify.storage.packed import LEAST

MOST = 1 << 24
"""Bytes that a mutated file may take to be read beyond what it is allowed to unpack to (`LEAST`), all tensors in turn."""

ODD: list[Any] = [
    0, 1, -1, 7, 255, 256, 1 << 20, (1 << 24) + 1, 1 << 31, 1 << 40, 1 << 59, 1 << 61, 1 << 63, 1 << 200, 1.5, True, None, "", "raw", "zstd", "pairs",
    "bitmap", "gaps", "dense", "int8", "int4", "float32", "float64", "bfloat16", "bool", "complex64", "../x", "a/b", "\x1b[31m", "\ud800", [], {}, [1 << 30, 1 << 30],
    [0, 1 << 50], [[4, "raw", 0]], {"a": 1},
]  # fmt: skip


def parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header of safetensors, and what follows it."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def whole(entries: dict[str, Any], rest: bytes) -> bytes:
    """Return a file of safetensors."""
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + rest


def with_header(data: bytes, change: Callable[[Any], Any]) -> bytes:
    """Return a file whose own header was changed, with sizes and checksums that fit."""
    entries, rest = parts(data)
    begin, end = entries["header"]["data_offsets"]
    packed = rest[begin:end]
    metadata = entries["__metadata__"]
    text = zstandard.ZstdDecompressor().decompress(packed) if metadata["codec"] == "zstd" else packed
    text = json.dumps(change(json.loads(text))).encode()
    small = zstandard.ZstdCompressor().compress(text)
    metadata.update(codec="zstd", size=str(len(text)), crc32=str(crc32(small)))
    moved = len(small) - (end - begin)
    for name, entry in entries.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            entry["data_offsets"] = [0, len(small)] if name == "header" else [first + moved, last + moved]
            entry["shape"] = [entry["data_offsets"][1] - entry["data_offsets"][0]]
    return whole(entries, small + rest[end:])


def _walk(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(deeper for key, child in children for deeper in _walk(child, (*path, key)))]


def lie(tree: Any, chance: random.Random) -> Any:
    """Return plain data with one or two values changed, removed, doubled or added."""
    for _ in range(chance.choice((1, 1, 2))):
        path = chance.choice([path for path in _walk(tree) if path] or [()])
        if not path:
            return chance.choice(ODD)
        node = tree
        for key in path[:-1]:
            node = node[key]
        old, kind = node[path[-1]], chance.randrange(5)
        if kind == 0:
            del node[path[-1]]
        elif kind == 1 and isinstance(node, list):
            node.append(old)
        elif kind == 2 and isinstance(old, int):
            node[path[-1]] = old + chance.choice((-1, 1, 8, old, 1 << 16))
        elif kind == 3 and isinstance(node, dict):
            node["surprise"] = old
        else:
            node[path[-1]] = chance.choice(ODD)
    return tree


def noise(data: bytes, chance: random.Random) -> bytes:
    """Return bytes with some changed, cut out, doubled or cut off."""
    kind, at = chance.randrange(4), chance.randrange(len(data))
    if kind == 0:
        changed = bytearray(data)
        for _ in range(chance.choice((1, 1, 4, 64))):
            changed[chance.randrange(len(data))] = chance.randrange(256)
        return bytes(changed)
    if kind == 1:
        return data[:at]
    length = chance.randrange(64)
    return data[:at] + data[at + length :] if kind == 2 else data[: at + length] + data[at:]


def resigned(data: bytes, chance: random.Random) -> bytes:
    """Return a file with noise in a plane, or another plane in its place, whose checksum fits again."""
    entries, rest = parts(data)
    number = chance.choice([name for name in entries if name.isdecimal()])
    begin, end = entries[number]["data_offsets"]
    blob = bytearray(rest[begin:end])
    if not blob:
        return data
    for _ in range(chance.choice((1, 3, 30))):
        blob[chance.randrange(len(blob))] = chance.choice((0, 255, chance.randrange(256)))
    if chance.random() < 0.2:  # a frame that says it is of 2⁴⁰ bytes
        bomb = b"\x28\xb5\x2f\xfd\xe0" + (1 << 40).to_bytes(8, "little") + b"\x01\x00\x00"
        blob[: len(bomb)] = bomb[: len(blob)]
    changed = whole(entries, rest[:begin] + bytes(blob) + rest[end:])

    def sign(header: Any) -> Any:
        at = int(number)
        if at < len(header["stored"]):
            start = 0
            for plane in header["stored"][at]["planes"]:
                plane[2] = crc32(bytes(blob[start : start + plane[0]]))
                start += plane[0]
        else:
            header["beside"][at - len(header["stored"])]["plane"][2] = crc32(bytes(blob))
        return header

    return with_header(changed, sign)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return a damaged or hostile file."""
    kind = chance.randrange(4)
    if kind == 0:
        return noise(data, chance)
    if kind == 1:
        return resigned(data, chance)
    if kind == 2:
        entries, rest = parts(data)
        return whole(lie(entries, chance), rest)
    return with_header(data, lambda header: lie(header, chance))


def read_all(path: Path) -> None:
    """Read everything in a packed file, in every way."""
    packed = PackedFile(path)
    for name in packed.names():
        packed.tensor(name)
        if packed.info(name).dtype.startswith(("float", "bfloat")) and packed.info(name).shape:
            packed.csr(name)
    for name in packed.beside():
        packed.text(name)


def attack(data: bytes, path: Path, count: int, seed: int) -> Counter[str]:
    """Read so many mutations, and return what became of them. Raises where one is worse than a clear error."""
    found: Counter[str] = Counter()
    tracemalloc.start()
    try:
        for number in range(count):
            path.write_bytes(mutated(data, random.Random(f"{seed} {number}")))
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                read_all(path)
                found["read"] += 1
            except SparsifyError as error:
                assert str(path) in str(error), f"{seed} {number}: {error}"
                found["refused"] += 1
            except BaseException as error:
                raise AssertionError(f"mutation {seed} {number}: {type(error).__name__}: {error}") from error
            taken = tracemalloc.get_traced_memory()[1] - before
            assert taken <= LEAST + MOST, f"mutation {seed} {number} takes {taken:,} bytes"
    finally:
        tracemalloc.stop()
    return found
