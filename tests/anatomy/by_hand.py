"""Models as people write them, without a family and without a configuration."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS = 16, 4


class Attention(nn.Module):
    """Query, key and value in one matrix; `kind` is what is done beside the usual."""

    def __init__(self, kind: str = "plain") -> None:
        super().__init__()
        self.kind, self.num_heads = kind, HEADS
        self.qkv, self.proj, self.norm = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).chunk(3, -1)
        query, key, value = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        if self.kind == "norm over all":
            mixed = self.norm(mixed)
        if self.kind == "shifted":
            mixed = mixed.roll(1, -1)
        return self.proj(mixed)  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Two matrices; `between` is what comes between them."""

    def __init__(self, between: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.fc1, self.fc2, self.between = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH), between

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.between(self.fc1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, kind: str = "plain", between: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(kind), FeedForward(between)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.mlp(x)  # type: ignore[no-any-return]


class Model(nn.Module):
    """Blocks in a container of any name, one after another."""

    def __init__(self, blocks: list[nn.Module], container: str = "blocks") -> None:
        super().__init__()
        self.inp = nn.Linear(8, WIDTH)
        self.add_module(container, nn.ModuleList(blocks))
        self.container = container
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        for block in self.get_submodule(self.container).children():
            x = block(x)
        return self.head(x)  # type: ignore[no-any-return]


class Towers(nn.Module):
    """Two inputs, and blocks of torch's own attention."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
            self.mlp = FeedForward()

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.attn(x, x, x, need_weights=False)[0]
            return x + self.mlp(x)  # type: ignore[no-any-return]

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(8, WIDTH), nn.Embedding(9, WIDTH)
        self.blocks = nn.Sequential(self.Layer(), self.Layer())

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return self.blocks(self.image(image)) @ self.blocks(self.text(text)).transpose(1, 2)  # type: ignore[no-any-return]


class Annotated(nn.Module):
    """The Annotated Transformer's attention: four matrices in a list."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn, self.mlp = Annotated(), FeedForward()

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.self_attn(x, x, x)
            return x + self.mlp(x)  # type: ignore[no-any-return]

    def __init__(self) -> None:
        super().__init__()
        self.d_k, self.h = WIDTH // HEADS, HEADS
        self.linears = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        parts = (
            linear(x).unflatten(-1, (self.h, self.d_k)).transpose(1, 2)
            for linear, x in zip(self.linears, (query, key, value), strict=False)
        )
        return self.linears[-1](functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class OneHead(nn.Module):
    """A head that is a module of its own, as in lectures."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.query, self.value = (nn.Linear(WIDTH, WIDTH // HEADS, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x))


class Lecture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads, self.proj = nn.ModuleList(OneHead() for _ in range(HEADS)), nn.Linear(WIDTH, WIDTH)
        self.ffwd = FeedForward()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.proj(torch.cat([head(x) for head in self.heads], -1))
        return x + self.ffwd(x)  # type: ignore[no-any-return]


class LoRA(nn.Module):
    """An adapter by hand: two matrices that are parameters beside a linear layer."""

    def __init__(self, linear: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.linear = linear
        self.lora_A = nn.Parameter(torch.randn(rank, linear.in_features))
        self.lora_B = nn.Parameter(torch.randn(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + x @ self.lora_A.t() @ self.lora_B.t()  # type: ignore[no-any-return]


def convolutions(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.downs = nn.ModuleList([convolutions(3, 4), convolutions(4, 8)])
        self.up, self.merged, self.last = nn.ConvTranspose2d(8, 4, 2, 2), convolutions(8, 4), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.downs[0](x)
        second = self.downs[1](functional.max_pool2d(first, 2))
        return self.last(self.merged(torch.cat([first, self.up(second)], 1)))  # type: ignore[no-any-return]


class Clicks(nn.Module):
    """Bags of tokens beside numbers, as in models of recommendations."""

    def __init__(self) -> None:
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(500, 8, mode="sum") for _ in range(2))
        self.bottom, self.top, self.out = nn.Linear(5, 8), nn.Linear(24, 8), nn.Linear(8, 1)

    def forward(self, numbers: Tensor, tokens: Tensor) -> Tensor:
        bags = [bag(each) for bag, each in zip(self.bags, tokens, strict=True)]
        return self.out(self.top(torch.cat([self.bottom(numbers), *bags], -1)).relu())  # type: ignore[no-any-return]
