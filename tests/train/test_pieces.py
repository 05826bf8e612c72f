"""Long texts of language models: read in pieces, with the tokens of the whole."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sparsify.errors import DataError
from sparsify.train.language import documents, packed, windows
from sparsify.train.pieces import keeps_space, pieces, token_ids
from sparsify.train.reading import LONGEST
from sparsify.train.tasks import TASKS
from tests import tiny
from tests.train.test_train_tasks import asked

WORDS = ["one", "two", "three", "un", "der", "stand", "ing", "understanding", "é", "日本"]


def text(words: int, seed: int = 0, spaces: tuple[str, ...] = (" ",)) -> str:
    draw = random.Random(seed)
    return "".join(draw.choice(WORDS) + draw.choice(spaces) for _ in range(words)).strip()


def tokenizer(kind: str, folder: Path) -> Any:
    """Return one of the three ways to treat spaces: dropped, part of the token behind, and put before every text."""
    if kind == "wordpiece":
        return AutoTokenizer.from_pretrained(tiny.text_model(folder / "bert"))
    made = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False)
    if kind == "bytes":
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator([text(300), "a"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made)


@pytest.mark.parametrize("spaces", [(" ",), (" ", "  ", "\n", "\n\n", "\t")], ids=["single", "all kinds"])
@pytest.mark.parametrize("kind", ["wordpiece", "bytes", "metaspace"])
def test_pieces_have_the_tokens_of_the_whole(kind: str, spaces: tuple[str, ...], tmp_path: Path) -> None:
    made = tokenizer(kind, tmp_path)
    assert keeps_space(made) == (kind == "bytes")
    long = text(400, spaces=spaces)
    whole = made(long, add_special_tokens=False)["input_ids"]
    for most in (200, 333, 500, 10**6) if len(spaces) > 1 else (40, 64, 97, 500, 10**6):
        (found,) = token_ids(made, [long], most)
        assert list(found) == whole


def test_every_piece_is_short_and_nothing_is_lost() -> None:
    for long in (text(500), "x" * 1000, "x  " * 300, "日本語" * 300, " " * 500, ""):
        cut = list(pieces(long, 100))
        assert "".join(cut) == long
        assert all(len(piece) <= 100 for piece in cut)
        left_out = list(pieces(long, 100, keep=False))
        assert sum(map(len, left_out)) >= len(long) - len(left_out)
    assert list(pieces("one two three", 8, keep=False)) == ["one two", "three"]


def test_blocks_and_windows_have_what_the_tokenizer_puts_around_a_text(tmp_path: Path) -> None:
    made = tokenizer("wordpiece", tmp_path)
    made.eos_token = None
    whole = made("a good film")["input_ids"]
    assert [list(block) for block in packed(made, ["a good film"], 100)] == [whole]
    assert [list(block) for block in windows(made, ["a good film"], 100)] == [whole]


def test_one_line_of_any_length_is_text_for_a_language_model(tmp_path: Path) -> None:
    """text8 is one line of 100 MB."""
    wanted = asked("causal-lm", tmp_path, max_length=16)
    line = "good film " * (LONGEST // 10 + 2)
    Path(wanted.train).write_text(line)
    assert documents(wanted, wanted.train, "train") == [line]
    prepared = TASKS["causal-lm"].prepare(wanted)
    assert len(prepared.train) > len(line) // 10 * 2 // 16 - 1
    assert isinstance(prepared.evaluation[0]["input_ids"], list)


def test_a_text_in_a_table_is_still_bounded(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text('text\n"' + "a " * LONGEST + '"\n')
    with pytest.raises(DataError, match=r"of at most 1,000,000: is the end of a line or a quotation"):
        documents(asked("causal-lm", tmp_path), str(path), "train")


@pytest.mark.parametrize("template", ["$A", "<s> $A", "$A </s>", "<s> $A </s>"])
def test_the_end_token_stands_between_documents_once(template: str) -> None:
    """Whether the tokenizer ends a text with it or not."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = {"<s>": 0, "</s>": 1, "<unk>": 2, "a": 3, "b": 4}
    inner = Tokenizer(models.WordLevel(names, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("</s>", 1)])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    begin = [0] if template.startswith("<s>") else []
    assert [list(block) for block in packed(made, ["a b", "b"], 100)] == [[*begin, 3, 4, 1, *begin, 4, 1]]
