"""The bytes and the text of a file, packed or not, wherever fsspec reaches: regular files only, and bounded."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

from sparsify.errors import DataError, did_you_mean, first_line
from sparsify.files import check_regular

PACKED = (".gz", ".bz2", ".xz", ".zip")
LARGEST = 4 << 30
"""Bytes of a file, unpacked: its rows take several times as much memory."""
LONGEST = 1_000_000
"""Characters of one text; cutting more into tokens takes minutes, and it is usually a line end or a quote that is
missing."""
PIECE = 1 << 24


def kind_of(source: str) -> str:
    """Return the ending that says what a file holds, in lower case: of `a.csv.gz` it is `.csv`.

    A `.zip` without one (`a.zip`) is looked into. Raises DataError.
    """
    path = Path(source)
    if path.suffix.lower() not in PACKED:
        return path.suffix.lower()
    inner = Path(path.stem).suffix.lower()
    if inner or path.suffix.lower() != ".zip":
        return inner
    with _archive(source, _raw(source, None)) as archive:
        return Path(_only_member(source, archive).filename).suffix.lower()


def text_of(source: str) -> str:
    """Return the text of a file, unpacked where it is packed.

    Raises DataError for what is missing, is no regular file, is too large, or cannot be unpacked; with the line of what
    is not UTF-8, or not text.
    """
    data = bytes_of(source)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        guess = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "perhaps Latin-1 or Windows-1252"
        raise DataError(
            f"{source}:{_line(data, error.start)}: not UTF-8 (byte 0x{data[error.start]:02x}; {guess}): convert it, "
            "for instance with `iconv -f … -t utf-8`"
        ) from None
    if (place := data.find(b"\0")) >= 0:
        raise DataError(f"{source}:{_line(data, place)}: a NUL byte: this is no text, or it is UTF-16")
    return text


def bytes_of(source: str) -> bytes:
    """Return the bytes of a file, unpacked where it is packed. Raises DataError."""
    if not source.lower().endswith(".zip"):
        return _raw(source, "infer")
    try:
        with _archive(source, _raw(source, None)) as archive, archive.open(_only_member(source, archive)) as file:
            return _bounded(source, file)
    except DataError:
        raise
    except Exception as error:  # what unpacks raises of every kind
        raise DataError(f"{source} cannot be read: {first_line(error)}") from None


def check_text(text: str, place: str) -> None:
    """Raise DataError for text that is longer than `LONGEST`, or that no file could hold.

    JSON and names of files may have halves of surrogate pairs.
    """
    check_length(len(text), place)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: character {error.start + 1} of {text[:40]!r} is no letter of any script") from None


def check_length(length: int, place: str) -> None:
    """Raise DataError for a text of more characters than `LONGEST`."""
    if length > LONGEST:
        raise DataError(
            f"{place}: a text of {length:,} characters, of at most {LONGEST:,}: is the end of a line or a quotation "
            "mark missing? Else divide it"
        )


def _raw(source: str, compression: str | None) -> bytes:
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    try:
        system, path = fsspec.core.url_to_fs(source)
        if isinstance(system, LocalFileSystem):
            check_regular(path)
        with fsspec.open(source, "rb", compression=compression) as file:
            return _bounded(source, file)
    except DataError:
        raise
    except FileNotFoundError:
        folder = Path(source).parent
        near = [str(other) for other in folder.iterdir()] if folder.is_dir() else []
        raise DataError(f"{source}: no such file{did_you_mean(source, near, most=0)}") from None
    except Exception as error:  # what unpacks raises of every kind
        raise DataError(f"{source} cannot be read: {getattr(error, 'strerror', None) or first_line(error)}") from None


def _bounded(source: str, file: Any) -> bytes:
    """Return all bytes of an open file. Raises DataError if it does not end before `LARGEST`."""
    found = io.BytesIO()
    while piece := file.read(PIECE):
        found.write(piece)
        if found.tell() > LARGEST:
            raise DataError(
                f"{source} cannot be read: more than {LARGEST:,} bytes (unpacked): give a folder of `datasets`, which "
                "is read piece by piece"
            )
    return found.getvalue()


def _archive(source: str, data: bytes) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise DataError(f"{source} cannot be read: {first_line(error)}") from None


def _only_member(source: str, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """Return the one file in an archive, beside folders and what macOS adds. Raises DataError for none or several."""
    members = [member for member in archive.infolist() if not member.is_dir() and "__MACOSX/" not in member.filename]
    if not members:
        raise DataError(f"{source} cannot be read: there is no file in the archive")
    if len(members) > 1:
        names = ", ".join(member.filename for member in members[:3]) + (", …" if len(members) > 3 else "")
        raise DataError(f"{source} cannot be read: there are {len(members)} files in the archive ({names}): unpack it")
    return members[0]


def _line(data: bytes, place: int) -> int:
    return data[:place].count(b"\n") + 1
