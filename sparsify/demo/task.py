"""The demo's data and model: scikit-learn's digits (1,797 real images, 8 × 8) and a small ViT."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

BATCH = 64
TEST_EVERY = 4


@dataclass(frozen=True)
class Digits:
    """Images as float32 [n, 1, 8, 8] in [−1, 1] and labels as int64 [n]."""

    images: Tensor
    labels: Tensor

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield shuffled full batches for ever-repeated epochs; the last, short one is left out."""
        order = torch.randperm(len(self.labels), generator=generator)
        for part in torch.split(order, BATCH):
            if len(part) == BATCH:
                yield self.images[part], self.labels[part]

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return len(self.labels) // BATCH


def digits() -> tuple[Digits, Digits]:
    """Return (train, test): every fourth image is held out."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    held_out = torch.arange(len(labels)) % TEST_EVERY == 0
    return Digits(images[~held_out], labels[~held_out]), Digits(images[held_out], labels[held_out])


def vit(seed: int) -> nn.Module:
    """Return a small ViT classifier with random weights: 16 patches, 4 layers, width 96."""
    import transformers

    torch.manual_seed(seed)
    config = transformers.ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=192,
        hidden_dropout_prob=0.0,
        num_labels=10,
    )
    model: nn.Module = transformers.ViTForImageClassification(config)
    return model


@torch.no_grad()
def accuracy(model: nn.Module, data: Digits) -> float:
    """Return the fraction of images classified rightly."""
    was_training = model.training
    model.eval()
    predicted = torch.cat([model(pixel_values=part).logits.argmax(1) for part in torch.split(data.images, 256)])
    model.train(was_training)
    return float((predicted == data.labels).float().mean())
