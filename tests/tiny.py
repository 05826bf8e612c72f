"""Small models and data in files, as a user has them: a BERT with a tokenizer, a ViT with an image processor."""

from __future__ import annotations

import random
from pathlib import Path

import torch

GOOD, BAD = ("fine", "lovely", "bright"), ("awful", "dull", "broken")
OTHERS = ("the", "a", "film", "song", "story", "was", "is", "very", "rather", "and", "with", "long", "short")
RECIPE = """
version: 1
name: small
modifiers:
  - {type: prune, sparsity: 0.75, window: {begin: 10%, end: 60%, every: 2}}
"""


def text_model(folder: Path, layers: int = 2) -> Path:
    """Write a BERT without a head, with a tokenizer of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *GOOD, *BAD, *OTHERS]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64}
    model = BertModel(BertConfig(vocab_size=len(words), num_hidden_layers=layers, **sizes))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rows(count: int, seed: int) -> list[tuple[int, str]]:
    """Return (label, sentence): 1 with a good word in it, 0 with a bad one."""
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        label = chance.randrange(2)
        words = [*chance.choices(OTHERS, k=chance.randrange(3, 12)), chance.choice(GOOD if label else BAD)]
        chance.shuffle(words)
        made.append((label, " ".join(words)))
    return made


def tsv(path: Path, count: int, seed: int) -> Path:
    """Write `label<TAB>sentence` without a header."""
    path.write_text("".join(f"{label}\t{sentence}\n" for label, sentence in rows(count, seed)), encoding="utf-8")
    return path


def image_model(folder: Path) -> Path:
    """Write a ViT for images of 8 × 8 in grey, with its image processor."""
    from sparsify.demo.files import write_model

    return write_model(folder, seed=0)


def write(folder: Path) -> None:
    """Write a model, data to train and to evaluate on, and the recipe."""
    text_model(folder / "model")
    tsv(folder / "train.tsv", 96, seed=1)
    tsv(folder / "eval.tsv", 40, seed=2)
    (folder / "recipe.yaml").write_text(RECIPE)
