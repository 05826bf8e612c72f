"""By what a sample is known."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsify import HookError
from sparsify.modifiers.distill.keys import keys_of


def keys(inputs: dict[str, Any], batch: int = 2, *, salt: str = "", decoder: bool = False, counted: Any = None) -> list:
    return keys_of(inputs, batch, counted, salt=salt, decoder=decoder)


def text(length: int = 6, *, before: int = 0) -> dict[str, Tensor]:
    """Return rows of 4 and 3 tokens, padded to a length."""
    ids, mask = torch.zeros(2, length + before, dtype=torch.long), torch.zeros(2, length + before, dtype=torch.long)
    for row, many in enumerate((4, 3)):
        ids[row, before : before + many] = torch.arange(1, many + 1) + 10 * row
        mask[row, before : before + many] = 1
    labels = torch.where(mask == 1, ids, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def test_padding_behind_a_sample_does_not_count() -> None:
    assert keys(text(4)) == keys(text(6)) == keys(text(50))
    assert len(set(keys(text()))) == 2


def test_padding_before_a_sample_moves_it() -> None:
    assert not set(keys(text())) & set(keys(text(before=2)))
    assert keys(text(6, before=2)) == keys(text(9, before=2))


def test_a_sample_has_one_key_whoever_stands_beside_it() -> None:
    one, other = text(), text(before=1)
    mixed = {name: torch.stack([one[name][0].new_zeros(7), other[name][1]]) for name in one}
    for name in one:
        mixed[name][0, :6] = one[name][0]
    mixed["labels"][0, 6] = -100
    assert keys(mixed) == [keys(one)[0], keys(other)[1]]
    swapped = {name: value.flip(0) for name, value in one.items()}
    assert keys(swapped) == keys(one)[::-1]


@pytest.mark.parametrize("name", ["input_ids", "labels", "attention_mask"])
def test_everything_else_counts(name: str) -> None:
    one, other = text(), text()
    other[name][1, 1] = 0
    found, wanted = keys(other), keys(one)
    assert found[0] == wanted[0]
    assert found[1] != wanted[1]


def test_names_dtypes_flags_and_salt_count() -> None:
    ids = torch.arange(6).view(2, 3)
    variants = [
        {"input_ids": ids},
        {"inputs": ids},
        {"input_ids": ids.int()},
        {"input_ids": ids, "task": 3},
        {"input_ids": ids, "position_ids": torch.arange(3)[None]},
        {"input_ids": ids, "scale": torch.tensor(2.0)},
    ]
    found = [keys(each)[0] for each in variants] + [keys(variants[0], salt="12 tokens")[0]]
    assert len(set(found)) == len(found)
    same = {"input_ids": ids, "num_items_in_batch": torch.tensor(7), "return_dict": True, "token_type_ids": None}
    assert keys(same) == keys(variants[0])


def test_positions_that_count() -> None:
    counted = torch.tensor([[True, False], [True, True]])
    ids = {"input_ids": torch.ones(2, 2, dtype=torch.long)}
    assert keys(ids)[0] == keys(ids)[1]
    one, two = keys(ids, counted=counted)
    assert one != two
    wider = torch.cat([counted, torch.zeros(2, 3, dtype=torch.bool)], 1)
    assert keys(ids, counted=wider) == [one, two]


def test_what_a_decoder_reads_is_cut_where_its_labels_end() -> None:
    short = {**text(), "labels": torch.tensor([[5, 6, -100], [7, -100, -100]])}
    short["decoder_input_ids"] = torch.tensor([[0, 5, 6], [0, 7, 1]])
    long = {**text(9), "labels": torch.nn.functional.pad(short["labels"], (0, 2), value=-100)}
    long["decoder_input_ids"] = torch.nn.functional.pad(short["decoder_input_ids"], (0, 2), value=3)
    assert keys(short, decoder=True) == keys(long, decoder=True)
    long["labels"][0, 1] = 9
    assert keys(short, decoder=True)[0] != keys(long, decoder=True)[0]


def test_choices_are_padded_each() -> None:
    """`[batch, choices, positions]`, as for multiple choice."""
    narrow = {name: torch.stack([value, value + 0]) for name, value in text(4).items() if name != "labels"}
    wide = {name: torch.stack([value, value + 0]) for name, value in text(8).items() if name != "labels"}
    assert keys(narrow) == keys(wide)
    wide["input_ids"][0, 1, 2] += 1
    assert keys(narrow)[0] != keys(wide)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.bool, torch.uint8])
def test_images_and_other_dtypes(dtype: torch.dtype) -> None:
    images = torch.randint(0, 2, (2, 3, 4, 4), generator=torch.Generator().manual_seed(0)).to(dtype)
    found = keys({"pixel_values": images})
    assert found == keys({"pixel_values": images.transpose(2, 3).contiguous().transpose(2, 3)})
    assert keys({"pixel_values": [images, OrderedDict(mask=images)]}) != found
    assert len(set(found)) == 2


def test_what_cannot_be_told_apart_is_refused() -> None:
    with pytest.raises(HookError, match=r"the cache finds no input with a row for each of 3 samples"):
        keys({"input_ids": torch.ones(2, 2)}, batch=3)
    with pytest.raises(HookError, match=r"the cache cannot tell samples apart by past\.0, a object"):
        keys({"input_ids": torch.ones(2, 2), "past": (object(),)})
