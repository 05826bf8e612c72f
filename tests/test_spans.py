"""Windows over contexts and the best span in them, against a slow and obvious reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sparsify import spans
from sparsify.engine.questions import Question
from sparsify.spans import BEST, LONGEST, Window
from sparsify.train.answering import labelled
from tests import tiny


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny.text_model(tmp_path_factory.mktemp("words")))


def window(question: int, size: int) -> Window:
    """Return a window whose tokens from the third on are words of three letters."""
    return Window(question, {}, [None if i < 2 else (4 * i, 4 * i + 3) for i in range(size)], null=0)


@pytest.mark.parametrize("seed", range(20))
def test_the_best_of_all_windows_is_that_of_every_pair_tried(seed: int) -> None:
    """Windows are small enough that every start and end is among the best."""
    chance = np.random.default_rng(seed)
    made = [window(number, int(chance.integers(4, BEST + 2))) for number in (0, 0, 0, 1, 2, 2)]
    starts, ends = chance.normal(size=(2, len(made), BEST + 5))
    best = spans.best(made, starts, ends)
    for number in range(3):
        mine = [(w, one) for w, one in enumerate(made) if one.question == number]
        score, w, i, j = max(
            (float(starts[w, i] + ends[w, j]), w, i, j)
            for w, one in mine
            for i in range(2, len(one.offsets))
            for j in range(i, min(i + LONGEST, len(one.offsets)))
        )
        assert best[number].span == spans.Span(score, w, i, j, 4 * i, 4 * j + 3)
        nothing, emptiest = min((float(starts[w, 0] + ends[w, 0]), w) for w, _ in mine)
        assert (best[number].nothing, best[number].emptiest) == (nothing, emptiest)


def test_an_answer_has_at_most_so_many_tokens() -> None:
    start, end = np.zeros((2, 1, LONGEST + 12))
    start[0, 2], end[0, 2 + LONGEST], end[0, 1 + LONGEST] = 5, 9, 5
    found = spans.best([window(0, LONGEST + 12)], start, end)[0].span
    assert found is not None
    assert (found.start, found.end) == (2, 1 + LONGEST)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_moves_no_token_and_no_label(tokenizer: Any, side: str) -> None:
    """Starts and ends count from the first token, whichever side a tokenizer pads on."""
    tokenizer.padding_side = side
    asked = [Question("was it", "the film was fine and the song dull"), Question("a", "a lovely song")]
    made = spans.windows(tokenizer, asked, most=20, stride=3)
    rows = [labelled(made[0], [("fine", 13)]), labelled(made[1], [("lovely", 2)])]
    batch = spans.batch(tokenizer, rows)
    assert tokenizer.padding_side == side
    tokenizer.padding_side = "right"
    assert tokenizer.convert_ids_to_tokens(batch["input_ids"][torch.arange(2), batch["start_positions"]]) == [
        "fine",
        "lovely",
    ]
    for one, ids, mask in zip(made, batch["input_ids"], batch["attention_mask"], strict=True):
        size = len(one.offsets)
        assert ids[:size].tolist() == one.inputs["input_ids"]
        assert mask.tolist() == [1] * size + [0] * (len(mask) - size)
