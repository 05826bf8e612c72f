"""What the hooks cost: a training step with them ÷ the same step without, interleaved in one run.

BERT-base width, 4 layers, batch 16 × 128, AdamW, CPU. Aim: at most 1.02 with `every: 50`, 1.05 with
`every: 1`. Several copies of the model take turns, in a new order each round; the ratio is the median over
rounds of sparse ÷ dense of the same round.

    python benchmarks/hooks.py [--rounds N] [--layers L] [--json FILE]
"""

from __future__ import annotations

from steps import compare, parser

RECIPE = """
version: 1
modifiers:
  - type: prune
    pattern: {pattern}
    scope: {scope}
    sparsity: {{from: {start}, to: {to}}}
    window: {{begin: 0, end: 100000, every: {every}}}
"""

CASES = {
    "unstructured tensor every 50": ("unstructured", "tensor", 0.05, 0.9, 50),
    "unstructured tensor every 1": ("unstructured", "tensor", 0.05, 0.9, 1),
    "unstructured global every 1": ("unstructured", "global", 0.05, 0.9, 1),
    "unstructured erk every 1": ("unstructured", "erk", 0.05, 0.9, 1),
    "unstructured row every 1": ("unstructured", "row", 0.05, 0.9, 1),
    "random tensor every 50": ("unstructured", "tensor", 0.05, 0.9, 50),
    "block 4x1 every 50": ("{type: block, shape: [4, 1]}", "tensor", 0.05, 0.9, 50),
    "block 4x1 every 1": ("{type: block, shape: [4, 1]}", "tensor", 0.05, 0.9, 1),
    "block 32x32 every 1": ("{type: block, shape: [32, 32]}", "global", 0.05, 0.9, 1),
    "row every 1": ("row", "tensor", 0.05, 0.9, 1),
    "column every 1": ("column", "tensor", 0.05, 0.9, 1),
    "2:4 every 50": ("2:4", "tensor", 0.05, 0.5, 50),
    "2:4 every 1": ("2:4", "tensor", 0.05, 0.5, 1),
    "2:4 late (from 0.4) every 1": ("2:4", "tensor", 0.4, 0.5, 1),
    "head every 50": ("head", "global", 0.05, 0.9, 50),
    "head every 1": ("head", "global", 0.05, 0.9, 1),
    "neuron every 50": ("neuron", "global", 0.05, 0.9, 50),
    "neuron every 1": ("neuron", "global", 0.05, 0.9, 1),
}


def recipe(name: str) -> str:
    """Return the recipe of a case as text."""
    pattern, scope, start, to, every = CASES[name]
    text = RECIPE.format(pattern=pattern, scope=scope, start=start, to=to, every=every)
    return text.replace("pattern:", "criterion: random\n    pattern:", 1) if "random" in name else text


if __name__ == "__main__":
    compare({name: recipe(name) for name in CASES}, parser(__doc__).parse_args())
