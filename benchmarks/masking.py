"""What learned masks cost: a training step with them ÷ the same step without, and the memory that they hold.

BERT-base width, 4 layers, batch 16 × 128, AdamW, CPU, a new mask at every step. Aim: at most 1.02 for blocks of
32 × 32, 1.08 for single weights by hard or soft movement; at most, above dense training, scores, their moments, one
copy of the targeted weights and one byte a weight.

    python benchmarks/masking.py [--rounds N] [--layers L] [--only PART] [--json FILE]
    python benchmarks/masking.py --memory          peak memory instead, each case in a process of its own
"""

from __future__ import annotations

import gc
import resource
import subprocess
import sys

import torch
from steps import build, compare, parser, stepper

RECIPE = """
version: 1
modifiers:
  - type: prune
    criterion: {criterion}
    pattern: {pattern}
    scope: {scope}
    sparsity: {{from: 0.05, to: 0.9}}
    window: {{begin: 0, end: 100000, every: 1}}
"""

BLOCK = "{type: block, shape: [32, 32]}"

CASES = {
    "block 32x32 hard, global": ("movement", BLOCK, "global"),
    "block 32x32 soft, global": ("soft-movement", BLOCK, "global"),
    "neuron hard, global": ("movement", "neuron", "global"),
    "head hard, global": ("movement", "head", "global"),
    "unstructured hard, tensor": ("movement", "unstructured", "tensor"),
    "unstructured hard, global": ("movement", "unstructured", "global"),
    "unstructured soft, global": ("soft-movement", "unstructured", "global"),
    "unstructured L0, global": ("hard-concrete", "unstructured", "global"),
}


def recipe(name: str) -> str:
    """Return the recipe of a case as text."""
    criterion, pattern, scope = CASES[name]
    return RECIPE.format(criterion=criterion, pattern=pattern, scope=scope)


def held() -> int:
    """Return the bytes of all tensors that are alive, each storage once."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor):
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def footprint(name: str, layers: int) -> None:
    """Train three steps; print bytes held between two steps, peak resident bytes, and the targeted weights."""
    torch.manual_seed(0)
    model = build(layers)
    targeted = sum(p.numel() for n, p in model.named_parameters() if ".layer." in n and p.dim() == 2)
    step = stepper(model, recipe(name) if name in CASES else None)
    for _ in range(3):
        step()
    print(held(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, targeted)


def memory(layers: int, only: str | None) -> None:
    """Print what every case holds and peaks at above dense training, in bytes for each targeted weight."""
    found = {}
    for name in ["dense", *(name for name in CASES if not only or only in name)]:
        command = [sys.executable, __file__, "--layers", str(layers), "--footprint", name]
        found[name] = tuple(
            map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
        )
    dense, weights = found["dense"], found["dense"][2]
    print(f"{weights:,} targeted weights; above dense training, in bytes for each:")
    for name, figures in found.items():
        held_more, peak_more = ((mine - theirs) / weights for mine, theirs in zip(figures[:2], dense[:2], strict=True))
        print(f"{name:32s} held {held_more:6.2f}   peak {peak_more:6.2f}")


if __name__ == "__main__":
    flags = parser(__doc__)
    flags.add_argument("--memory", action="store_true")
    flags.add_argument("--footprint", help="one case, for --memory")
    arguments = flags.parse_args()
    if arguments.footprint:
        footprint(arguments.footprint, arguments.layers)
    elif arguments.memory:
        memory(arguments.layers, arguments.only)
    else:
        compare({name: recipe(name) for name in CASES}, arguments)
