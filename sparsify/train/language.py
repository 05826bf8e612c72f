"""Causal and masked language models: documents become blocks of tokens; perplexity is that of the tokens counted."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.errors import DataError, PlanError
from sparsify.heads import LOOKS_AHEAD
from sparsify.train import metrics, reading, table
from sparsify.train.columns import TEXTS, text_column
from sparsify.train.metrics import IGNORED
from sparsify.train.model import config_for, load
from sparsify.train.order import Ordered
from sparsify.train.pieces import token_ids
from sparsify.train.settings import Settings
from sparsify.train.task import Prepared, Task, fingerprint
from sparsify.train.tokenizing import most_tokens, tokenizer_of

HIDDEN = 0.15
"""The part of the tokens that a masked language model has to guess (Devlin et al., 2019, §3.1)."""


def documents(settings: Settings, source: str, split: str) -> list[str]:
    """Return the documents of a text file, or of the text column of a table.

    In a text file they are divided by blank lines; without any, each line is one. They may be as long as the file; a
    text in a table has the length of a text, for there a quotation mark may be missing. Raises DataError.
    """
    if reading.kind_of(source) == ".txt":
        text = reading.text_of(source).replace("\r\n", "\n").replace("\r", "\n")
        found = [part.strip("\n") for part in text.split("\n\n") if part.strip()]
        found = found if len(found) > 1 else [line for line in text.split("\n") if line.strip()]
    else:
        rows = table.read(source, split, [name.casefold() for name in (*settings.input_columns, *TEXTS)])
        name = text_column(rows, settings.input_columns, TEXTS)
        found = [table.text_in(rows, name, row) for row in range(len(rows))]
    if not any(text.strip() for text in found):
        raise DataError(f"{source}: there is no text in it")
    return found


class Blocks(torch.utils.data.Dataset[dict[str, Any]]):
    """Blocks of token ids whose labels are the tokens themselves, as causal models want them."""

    def __init__(self, blocks: Sequence[Sequence[int]]) -> None:
        self.blocks = blocks

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = list(self.blocks[index])
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ids}


class Masked(Blocks):
    """Blocks in which some tokens are hidden: others in every epoch, and always the same for seed, epoch and block.

    Of the hidden ones 80 % read [MASK], 10 % any other token, 10 % themselves; labels are −100 elsewhere.
    """

    def __init__(self, blocks: Sequence[Sequence[int]], tokenizer: Any, seed: int) -> None:
        super().__init__(blocks)
        self.mask, self.words, self.special = tokenizer.mask_token_id, len(tokenizer), set(tokenizer.all_special_ids)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Hide other tokens."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(((self.seed * 1_000_003 + self.epoch) * 1_000_003 + index) % 2**63)
        ids = torch.tensor(list(self.blocks[index]))
        chance = torch.rand(len(ids), generator=generator)
        chance[torch.tensor([int(token) in self.special for token in ids])] = 2.0
        hidden = chance < HIDDEN
        if not bool(hidden.any()):
            hidden[chance.argmin()] = bool(chance.min() < 1)
        kind = torch.rand(len(ids), generator=generator)
        others = torch.randint(self.words, (len(ids),), generator=generator)
        seen = torch.where(hidden & (kind < 0.8), torch.full_like(ids, self.mask), ids)
        seen = torch.where(hidden & (kind >= 0.9), others, seen)
        labels = torch.where(hidden, ids, torch.full_like(ids, IGNORED))
        return {"input_ids": seen.tolist(), "attention_mask": [1] * len(ids), "labels": labels.tolist()}


def packed(tokenizer: Any, texts: Sequence[str], most: int) -> list[array[int]]:
    """Return the tokens of all documents one after the other, the end token between them, in blocks of `most`."""
    first, last = _around(tokenizer, tokenizer.num_special_tokens_to_add())
    end = [] if tokenizer.eos_token_id in (None, *last[-1:]) else [tokenizer.eos_token_id]
    ids = array("i")
    for document in token_ids(tokenizer, texts):
        for part in (first, document, last, end):  # one by one: a number in a tuple takes 40 bytes, in an array 4
            ids.extend(part)
    blocks = [ids[start : start + most] for start in range(0, len(ids), most)]
    return [block for block in blocks if len(block) > 1]  # one token alone predicts nothing


def windows(tokenizer: Any, texts: Sequence[str], most: int) -> list[array[int]]:
    """Return every document in windows of at most `most` tokens, each with the model's own first and last token."""
    extra = tokenizer.num_special_tokens_to_add()
    room = most - extra
    first, last = _around(tokenizer, extra)
    return [
        array("i", (*first, *ids[start : start + room], *last))
        for ids in token_ids(tokenizer, texts)
        for start in range(0, len(ids), room)
    ]


def _around(tokenizer: Any, extra: int) -> tuple[list[int], list[int]]:
    """Return the tokens that stand before and after a text."""
    if not extra:
        return [], []
    ids, bare = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    place = next((i for i in range(len(ids) - len(bare) + 1) if ids[i : i + len(bare)] == bare), 0)
    return ids[:place], ids[place + len(bare) :]


def collate(rows: list[dict[str, Any]], *, padding: int) -> dict[str, Tensor]:
    """Return a batch, int64 [rows, longest]: ids filled up with `padding`, mask with 0, labels with −100."""
    fill = {"input_ids": padding, "attention_mask": 0, "labels": IGNORED}
    longest = max(len(row["input_ids"]) for row in rows)
    return {
        name: torch.tensor([[*row[name], *[value] * (longest - len(row[name]))] for row in rows])
        for name, value in fill.items()
    }


def prepare(settings: Settings, *, loaded: nn.Module | None = None, masked: bool) -> Prepared:
    """Read documents and model. Raises DataError and PlanError."""
    config = config_for(settings.model, settings.task)
    tokenizer = tokenizer_of(settings.model, config)
    if masked and tokenizer.mask_token_id is None:
        raise PlanError(f"{settings.model}: its tokenizer has no mask token, which masked-lm needs")
    if tokenizer.pad_token_id is None:
        raise PlanError(f"{settings.model}: its tokenizer has neither a padding nor an end token")
    sources = ((settings.train, "train"), (settings.eval, "eval"))
    texts = [documents(settings, source, split) for source, split in sources]
    model, notes = load(settings.model, settings.task, config, None, loaded)
    if not masked and _looks_ahead(model, config):
        raise PlanError(LOOKS_AHEAD.format(name=settings.model, kind=config.model_type))
    cut, most = windows if masked else packed, most_tokens(settings, config)
    train, evaluation = (cut(tokenizer, some, most) for some in texts)
    for source, blocks in zip((settings.train, settings.eval), (train, evaluation), strict=True):
        if not blocks:
            raise DataError(f"{source}: it holds fewer than two tokens of text")
    if masked:
        sides: list[Blocks] = [Masked(train, tokenizer, settings.seed), Masked(evaluation, tokenizer, 0)]
    else:
        sides = [Blocks(train), Blocks(evaluation)]
    counts = [sum(map(len, blocks)) for blocks in (train, evaluation)]
    lengths = [len(block) for block in train]
    return Prepared(
        model=model,
        train=Ordered(sides[0], settings.rows_per_step, settings.seed, lengths),
        evaluation=sides[1],
        collate=partial(collate, padding=tokenizer.pad_token_id),
        processor=tokenizer,
        measure=metrics.language_model,
        thin=partial(metrics.token_counts, shifted=not masked),
        notes=[
            f"{counts[0]:,} tokens to train on in {len(train):,} blocks, {counts[1]:,} to evaluate on; {most} at most",
            *notes,
        ],
        data={
            "train_rows": len(train),
            "eval_rows": len(evaluation),
            **{f"{name}_sha256": fingerprint(some) for name, some in zip(("train", "eval"), texts, strict=True)},
        },
    )


@torch.no_grad()
def _looks_ahead(model: nn.Module, config: Any) -> bool:
    """Whether what a model says of a token depends on those after it."""
    words = int(config.get_text_config().vocab_size)
    first = torch.arange(4).remainder(words)[None]
    second = first.clone()
    second[0, -1] = words - 1
    training = model.training
    model.eval()
    one, other = (model(input_ids=ids).logits[:, :-1] for ids in (first, second))
    model.train(training)
    return bool((one - other).abs().max() > 1e-5 * max(1.0, float(one.abs().max())))


MEASURED = ("perplexity", "accuracy")
CAUSAL = Task("causal-lm", partial(prepare, masked=False), MEASURED)
MASKED = Task("masked-lm", partial(prepare, masked=True), MEASURED)
