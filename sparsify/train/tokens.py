"""Token classification: a label for every word; its first piece carries it, F1 is that of whole entities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from sparsify.errors import DataError, did_you_mean
from sparsify.escaping import quoted
from sparsify.progress import each
from sparsify.report.predictions import Predictions
from sparsify.train import conll, doubts, entities, reading, table
from sparsify.train.columns import no_column, text_column
from sparsify.train.labels import Labels, text_of
from sparsify.train.metrics import IGNORED, logits_of
from sparsify.train.model import config_for, load
from sparsify.train.order import Ordered
from sparsify.train.settings import Settings
from sparsify.train.table import Table
from sparsify.train.task import Prepared, Task, fingerprint
from sparsify.train.tokenizing import fast, most_tokens, tokenizer_of

WORDS = ("tokens", "words", "text")
TAGS = ("tags", "ner_tags", "labels", "pos_tags", "chunk_tags", "label")


@dataclass(frozen=True)
class Sentences:
    """Words and the tag of each, of every sentence."""

    table: Table
    words: list[list[str]]
    tags: list[list[str]]


def read(settings: Settings, source: str, split: str) -> Sentences:
    """Read a CoNLL file (a word and its tag a line, sentences divided by blank lines) or two columns of lists.

    Raises DataError, with file and line.
    """
    if reading.kind_of(source) in conll.ENDINGS:
        rows = conll.read(source)
        found = Sentences(rows, list(rows.columns["tokens"]), list(rows.columns["tags"]))
    else:
        rows = table.read(source, split, [])
        column = text_column(rows, settings.input_columns, WORDS, label=settings.label_column)
        others = {name.casefold(): name for name in rows.columns if name != column}
        tagged = settings.label_column or next((others[name] for name in TAGS if name in others), "tags")
        if tagged not in rows.columns:
            raise DataError(f"{source}: {no_column(rows, tagged)}; name it with --label-column")
        found = Sentences(rows, _lists(rows, column, "word"), _lists(rows, tagged, "tag"))
    for row, (words, tags) in enumerate(zip(found.words, found.tags, strict=True)):
        if len(words) != len(tags):
            raise DataError(f"{found.table.place(row)}: {len(words)} words, but {len(tags)} tags")
        reading.check_length(sum(map(len, words)), found.table.place(row))
    if not any(found.words):
        raise DataError(f"{source}: there are no words in it")
    return found


def _lists(rows: Table, name: str, what: str) -> list[list[str]]:
    """Return a column of lists as text, class numbers by their names; words stay as they are, blank ones too."""
    known, found = rows.classes.get(name), []
    for row, cell in enumerate(rows.columns[name]):
        if isinstance(cell, str) or not isinstance(cell, Sequence):
            raise DataError(f"{rows.place(row)}: {name!r} is {quoted(cell, 40)}, not a list")
        texts = []
        for value in cell:
            if known and isinstance(value, int) and 0 <= value < len(known):
                texts.append(known[value])
            elif what == "word" and isinstance(value, str):
                reading.check_text(value, rows.place(row))
                texts.append(value)
            else:
                texts.append(text_of(value, rows.place, row, what))
        found.append(texts)
    return found


def labels_of(sentences: Sentences, known: tuple[str, ...]) -> Labels:
    """Return the labels of the training data, as the model has them if it has all of them. Raises DataError."""
    values = {tag for tags in sentences.tags for tag in tags}
    if values <= set(known):
        return Labels(known)
    if len(values) < 2:
        raise DataError(f"{sentences.table.name}: all words have the tag {next(iter(values))!r}")
    return Labels(tuple(sorted(values, key=lambda tag: (tag != "O", tag.partition("-")[2], tag))))


def encode(tokenizer: Any, sentences: Sentences, labels: Labels, most: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows of a data set, and notes on what of it is not seen. Raises DataError for an unknown tag."""
    numbers = {name: number for number, name in enumerate(labels.names)}
    made, cut, lost = [], 0, []
    rows = each("cutting words into tokens", list(zip(sentences.words, sentences.tags, strict=True)))
    for row, (words, tags) in enumerate(rows):
        encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=most)
        wanted, before = [], None
        for word in encoded.word_ids():
            if word is not None and tags[word] not in numbers:
                hint = did_you_mean(tags[word], labels.names)
                place = sentences.table.place(row)
                raise DataError(f"{place}: the tag {tags[word]!r} does not occur in the training data{hint}")
            wanted.append(IGNORED if word is None or word == before else numbers[tags[word]])
            before = word
        reached = {word for word in encoded.word_ids() if word is not None}
        whole = len(reached) == len(words)
        cut += not whole and len(wanted) >= most
        lost += [row] if not whole and len(wanted) < most else []
        made.append({**{name: list(values) for name, values in encoded.items()}, "labels": wanted})
    name, notes = sentences.table.name, []
    if cut:
        notes.append(f"{name}: {cut:,} sentences are longer than {most} tokens and are cut (--max-length)")
    if lost:
        place = sentences.table.place(lost[0])
        notes.append(
            f"{name}: {len(lost):,} sentences have words without a token ({place}): their tags are not learned"
        )
    return made, notes


def _guesses(logits: Any, labels: Tensor) -> Tensor:
    """Keep the class of every position, not its logits."""
    scores: Tensor = logits[0] if isinstance(logits, tuple) else logits
    return scores.argmax(-1)


class Measure:
    """F1 of entities (of classes where tags name none), precision, recall; accuracy of words."""

    def __init__(self, labels: Labels) -> None:
        self.names = labels.names

    def __call__(self, prediction: Any) -> dict[str, float]:
        pairs = [list(self._pairs(*row)) for row in zip(logits_of(prediction), prediction.label_ids, strict=True)]
        right = sum(guess == tag for row in pairs for guess, tag in row)
        words = max(sum(map(len, pairs)), 1)
        guessed, wanted = ([[pair[side] for pair in row] for row in pairs] for side in (0, 1))
        return {**entities.scores(guessed, wanted), "accuracy": right / words}

    def predicted(self, prediction: Any, *, sha256: str) -> Predictions:
        """Return the tag that each word got, sentence by sentence."""
        numbers = {name: number for number, name in enumerate(self.names)}
        rows = zip(logits_of(prediction), prediction.label_ids, strict=True)
        pairs = [pair for row in rows for pair in self._pairs(*row)]
        return Predictions(
            kind="labels",
            unit="words",
            sha256=sha256,
            names=list(self.names),
            predicted=[numbers[guess] for guess, _ in pairs],
            right=[int(guess == tag) for guess, tag in pairs],
        )

    def _pairs(self, guesses: Any, labels: Any) -> Iterator[tuple[str, str]]:
        """Yield the guessed and the right tag of every labelled position."""
        for guess, label in zip(guesses.tolist(), labels.tolist(), strict=False):
            if label != IGNORED:
                yield self.names[int(guess)], self.names[int(label)]


def prepare(settings: Settings, *, loaded: nn.Module | None = None) -> Prepared:
    """Read sentences and model. Raises DataError and PlanError."""
    from transformers import DataCollatorForTokenClassification

    config = config_for(settings.model, settings.task)
    tokenizer = fast(tokenizer_of(settings.model, config), settings.model, settings.task)
    if getattr(tokenizer, "add_prefix_space", None) is False:  # words come without the space before them
        tokenizer = fast(_with_space(settings.model), settings.model, settings.task)
    train, evaluation = (read(settings, *side) for side in ((settings.train, "train"), (settings.eval, "eval")))
    labels = labels_of(train, tuple(config.id2label[number] for number in sorted(config.id2label)))
    model, notes = load(settings.model, settings.task, config, labels, loaded)
    most = most_tokens(settings, config)
    (rows, odd), (others, odd_too) = (encode(tokenizer, side, labels, most) for side in (train, evaluation))
    lengths = [len(row["input_ids"]) for row in rows]
    measure, sha256 = Measure(labels), fingerprint(zip(evaluation.tags, evaluation.words, strict=True))
    shown = ", ".join(labels.names[:6]) + (", …" if len(labels.names) > 6 else "")
    told = [f"{len(rows):,} sentences to train on, {len(others):,} to evaluate on; {len(labels.names)} tags: {shown}"]
    first = train.table.place
    places = [row for row, tags in enumerate(train.tags) for _ in tags]
    told += doubts.about_labels([tag for tags in train.tags for tag in tags], lambda word: first(places[word]), "tag")
    told += [*odd, *odd_too]
    return Prepared(
        model=model,
        train=Ordered(rows, settings.rows_per_step, settings.seed, lengths),
        evaluation=others,
        collate=DataCollatorForTokenClassification(tokenizer),
        processor=tokenizer,
        measure=measure,
        thin=_guesses,
        predicted=partial(measure.predicted, sha256=sha256),
        notes=[*told, *notes],
        data={
            "train_rows": len(rows),
            "eval_rows": len(others),
            "labels": list(labels.names),
            "train_sha256": fingerprint(zip(train.tags, train.words, strict=True)),
            "eval_sha256": sha256,
        },
        labels=labels,
    )


def _with_space(name: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name, add_prefix_space=True, trust_remote_code=False)


TASK = Task("token-classification", prepare, ("f1", "precision", "recall", "accuracy"))
