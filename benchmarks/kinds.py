"""Three models of different kinds, made from configurations, trained dense and sparse: a decoder, a CNN, sounds.

    python benchmarks/kinds.py TEXTS.txt OUT

TEXTS.txt has a text a line (the last tenth is held out). The decoder (like Gemma 3) learns texts, of 2,048 tokens that
are learned from them too, and the CNN (a ConvNeXt) scikit-learn's digits by `sparsify train`; the encoder of sounds
(like wav2vec 2.0) tells four shapes of waves apart, in a loop of ten lines. Sparse runs have the steps and the learning
rate of the dense ones.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsify import Manager, Recipe

SEED, RATE = 0, 16_000
SHAPES = ("sine", "square", "saw", "noise")


def main() -> None:
    texts, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.manual_seed(SEED)
    print("| model | recipe | zeros in its targets | metric | dense | sparse |\n|---|---|---|---|---|---|", flush=True)
    for rows in (sounds, lambda: digits(out), lambda: decoder(texts, out)):
        print("\n".join(rows()), flush=True)


def tokens(texts: list[str]) -> Any:
    """Return a tokenizer of bytes and their commonest pairs in some texts."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    pairs = ByteLevelBPETokenizer()
    pairs.train_from_iterator(texts, vocab_size=2048, special_tokens=["<pad>", "<s>", "</s>"])
    ends = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=pairs._tokenizer, **ends)


def decoder(texts: Path, out: Path) -> list[str]:
    """Train a decoder on texts: perplexity on what was held out."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    lines = texts.read_text(encoding="utf-8").splitlines()
    split = len(lines) * 9 // 10
    words = tokens(lines[:split])
    sizes = {
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "vocab_size": len(words),
    }
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24, "max_position_embeddings": 128}
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    base = out / "decoder"
    Gemma3ForCausalLM(Gemma3TextConfig(**sizes, **heads, **ends)).save_pretrained(base)
    words.save_pretrained(base)
    for name, part in (("train", lines[:split]), ("eval", lines[split:])):
        (out / f"{name}.txt").write_text("\n".join(part), encoding="utf-8")
    data = ["--train", str(out / "train.txt"), "--eval", str(out / "eval.txt"), "--max-length", "64"]
    fixed = ["--task", "causal-lm", "--model", str(base), *data, "--epochs", "4", "--lr", "2e-3"]
    return against("Gemma 3, 4 layers of 96", fixed, out, "perplexity", ["gmp"], ["heads-and-neurons"])


def digits(out: Path) -> list[str]:
    """Train a ConvNeXt on digits: accuracy."""
    from transformers import ConvNextConfig, ConvNextForImageClassification, ViTImageProcessor

    files, base = out / "digits", out / "convnext"
    if not files.exists():
        subprocess.run([sys.executable, "-m", "sparsify", "demo", "--files", str(files)], check=True, stdout=sys.stderr)
    sizes = {"num_channels": 1, "patch_size": 1, "hidden_sizes": [16, 32], "depths": [2, 2], "num_stages": 2}
    ConvNextForImageClassification(ConvNextConfig(**sizes, image_size=8, num_labels=10)).save_pretrained(base)
    ViTImageProcessor.from_pretrained(files / "model").save_pretrained(base)
    data = ["--train", str(files / "train"), "--eval", str(files / "eval"), "--batch-size", "64"]
    fixed = ["--task", "image-classification", "--model", str(base), *data, "--epochs", "20", "--lr", "3e-3"]
    return against("ConvNeXt, 16 and 32 channels", fixed, out, "accuracy", ["gmp"], ["neurons"])


def against(model: str, fixed: list[str], out: Path, metric: str, *recipes: list[str]) -> list[str]:
    """Train dense, then with each recipe; return the lines of the table."""
    found = []
    for recipe in ([], *recipes):
        made = out / f"{Path(fixed[3]).name}-{recipe[0] if recipe else 'dense'}"
        words = [*fixed, "--seed", str(SEED), "--out", str(made), *(["--recipe", *recipe] if recipe else [])]
        if not (made / "report.json").exists():
            subprocess.run([sys.executable, "-m", "sparsify", "train", *words], check=True, stdout=sys.stderr)
        found.append(json.loads((made / "report.json").read_text(encoding="utf-8")))
    dense, *sparse = found
    rows = zip(recipes, sparse, strict=True)
    return [
        row(model, recipe[0], zeros(each), metric, last(dense, metric), last(each, metric)) for recipe, each in rows
    ]


def row(model: str, recipe: str, share: float, metric: str, dense: float, sparse: float) -> str:
    """Return a line of the table."""
    return f"| {model} | `{recipe}` | {share:.1%} | {metric} | {dense:.4g} | {sparse:.4g} |"


def zeros(report: dict[str, Any]) -> float:
    """Return the share of zeros in what was targeted."""
    return float(report["density"]["targeted"]["sparsity"])


def last(report: dict[str, Any], metric: str) -> float:
    """Return a metric after the last epoch."""
    return float(report["training"]["metrics"][metric])


def waves(count: int, made: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return sounds [count, 1600], a tenth of a second of random pitch, phase, loudness and noise, and their shapes."""
    time = torch.arange(RATE // 10) / RATE
    kinds = torch.randint(len(SHAPES), (count,), generator=made)
    pitch = 200 + 600 * torch.rand(count, 1, generator=made)
    turns = pitch * time + torch.rand(count, 1, generator=made)
    sine, noise = torch.sin(2 * math.pi * turns), torch.randn(count, len(time), generator=made)
    every = torch.stack([sine, sine.sign(), 2 * (turns % 1) - 1, noise])
    sounds = every[kinds, torch.arange(count)]
    loud = 0.2 + torch.rand(count, 1, generator=made)
    return loud * (sounds + 0.3 * torch.randn(sounds.shape, generator=made)), kinds


def sounds() -> list[str]:
    """Train an encoder of sounds in a hand-written loop: accuracy."""
    recipes = ("gmp", "movement")
    dense = listen(None)[0]
    found = [(recipe, *listen(recipe)) for recipe in recipes]
    model = "wav2vec 2.0, 2 layers of 64"
    return [row(model, recipe, share, "accuracy", dense, score) for recipe, score, share in found]


def listen(recipe: str | None) -> tuple[float, float]:
    """Return the accuracy on 512 new sounds after 300 steps, and the sparsity."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

    torch.manual_seed(SEED)
    made = torch.Generator().manual_seed(SEED)
    convolutions = {"conv_dim": [32, 32, 32], "conv_kernel": [10, 3, 3], "conv_stride": [5, 2, 2]}
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    more = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "num_labels": len(SHAPES)}
    plain = {"mask_time_prob": 0.0, "layerdrop": 0.0, "num_feat_extract_layers": 3, "classifier_proj_size": 64}
    model: Any = Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**convolutions, **sizes, **more, **plain))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    manager = Manager(Recipe.load(recipe)).apply(model, optimizer, total_steps=300) if recipe else None
    for _ in range(300):
        inputs, labels = waves(32, made)
        if manager:
            manager.on_step_begin()
        model(input_values=inputs, labels=labels).loss.backward()
        if manager:
            manager.on_before_optimizer_step()
        optimizer.step()
        optimizer.zero_grad()
        if manager:
            manager.on_step_end()
    share = manager.finalize().targeted.sparsity if manager else 0.0
    inputs, labels = waves(512, torch.Generator().manual_seed(SEED + 1))
    with torch.no_grad():
        score = (model.eval()(input_values=inputs).logits.argmax(1) == labels).float().mean().item()
    return score, share


if __name__ == "__main__":
    main()
