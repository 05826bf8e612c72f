"""Images in requests: base64 of a file. What is too large is refused by its header, before anything is decoded."""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from collections.abc import Sequence
from typing import Any

from sparsify.errors import SparsifyError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


class InputError(SparsifyError):
    """A request that this model cannot answer."""


def decoded(texts: Sequence[str], most: int, mode: str) -> list[Any]:
    """Return PIL images in a mode (RGB or L), upright; of several frames the first.

    Raises InputError for what is no image, and for images that together have more than `most` pixels.
    """
    opened = [_opened(index, text) for index, text in enumerate(texts)]
    pixels = sum(image.width * image.height for image in opened)
    if pixels > most:
        raise InputError(f"the images have {pixels:,} pixels; at most {most:,} are taken in one request")
    return [_loaded(index, image, mode) for index, image in enumerate(opened)]


def blank(side: int, mode: str) -> str:
    """Return a black image as a request has it."""
    from PIL import Image

    made = io.BytesIO()
    Image.new(mode, (side, side)).save(made, "PNG")
    return base64.b64encode(made.getvalue()).decode()


def _opened(index: int, text: str) -> Any:
    """Return an image of which the header alone is read."""
    from PIL import Image

    try:
        data = base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError):
        raise InputError(f"inputs[{index}] is no base64 of an image") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # we count ourselves
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise InputError(f"inputs[{index}] has too many pixels") from None
    except Exception:  # the library raises of every kind
        raise InputError(f"inputs[{index}] is no image ({', '.join(FORMATS)})") from None


def _loaded(index: int, image: Any, mode: str) -> Any:
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image).convert(mode)
    except Exception:  # the library raises of every kind
        raise InputError(f"inputs[{index}] is an image that is damaged") from None
