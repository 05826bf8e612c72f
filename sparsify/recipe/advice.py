"""From a goal and the hardware to a recipe with comments: which pattern pays where, and where nothing does yet."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from sparsify.recipe.writer import write


@dataclass(frozen=True)
class Prune:
    """One `prune` to write: its keys, and why they are so."""

    targets: str
    pattern: str
    scope: str
    variable: str
    """The variable that holds its sparsity, or a plain number where there is nothing to choose."""

    why: str
    criterion: str = "magnitude"


@dataclass(frozen=True)
class Advice:
    """What suits a goal."""

    name: str
    summary: str
    why: str
    sparsity: float
    """The default of the variables."""

    most: float
    prunes: tuple[Prune, ...]


_UNSTRUCTURED = Prune(
    "default",
    "unstructured",
    "{type: global, ceiling: 0.98}",
    "sparsity",
    "All tensors share one budget, so that the sensitive ones stay denser; none loses more than 98 %.",
)

SMALL = Advice(
    "small",
    "A file that compresses well: the smallest weights go, wherever they are.",
    "Single weights cost the least accuracy at a given sparsity. The zeros shrink the compressed file; dense kernels "
    "multiply them as before, so the model is not faster.",
    0.9,
    0.98,
    (_UNSTRUCTURED,),
)
SMALL_TRANSFORMER = Advice(
    "small",
    "A file that compresses well: the weights go that the training moves towards zero, wherever they are.",
    "Single weights cost the least accuracy at a given sparsity, and learned scores choose them better than magnitude "
    "while a pretrained model is fine-tuned. The zeros shrink the compressed file; dense kernels multiply them as "
    "before, so the model is not faster.",
    0.9,
    0.98,
    (
        Prune(
            "default",
            "unstructured",
            "global",
            "sparsity",
            "All tensors share one threshold, so that the sensitive ones stay denser.",
            "soft-movement",
        ),
    ),
)
FAST_ANYWHERE = Advice(
    "fast",
    "Whole attention heads and whole neurons go: what is left is a smaller dense model.",
    "Only structure makes ordinary dense kernels faster. Until the dead parts are cut out the model takes as long as "
    "before; half of the heads and neurons is about half of the encoder's work.",
    0.5,
    0.95,
    (
        Prune(
            "attention", "{type: head, reduce: l2}", "global", "heads", "A head is pruned with its rows and columns."
        ),
        Prune(
            "ffn",
            "{type: neuron, reduce: l2}",
            "global",
            "neurons",
            "A neuron goes from its inputs to its outputs.",
        ),
    ),
)
FAST_CONVOLUTIONS = Advice(
    "fast-filters",
    "Whole filters of convolutions go.",
    "Only structure makes ordinary dense kernels faster. Until the dead filters are cut out the model takes as long as "
    "before.",
    0.3,
    0.9,
    (
        Prune(
            "default",
            "{type: filter, reduce: l2}",
            "{type: global, ceiling: 0.7}",
            "sparsity",
            "No layer loses over 70 %.",
        ),
    ),
)
FAST_TENSOR_CORES = Advice(
    "fast-2-4",
    "Two weights of every four are kept, as sparse tensor cores multiply them.",
    "NVIDIA GPUs from Ampere on multiply 2:4 matrices up to twice as fast, with kernels made for it (torch's "
    "semi-structured tensors, TensorRT). Ordinary kernels gain nothing. There is no sparsity to choose: it is a half.",
    0.5,
    0.5,
    (Prune("default", '"2:4"', "tensor", "0.5", "The best two of four are protected from the beginning."),),
)
FAST_ENGINE = Advice(
    "fast-blocks",
    "Blocks of four outputs and one input go, as sparse CPU engines skip them.",
    "A CPU that multiplies block-sparse matrices loads one input for four outputs. It needs an engine that does so; "
    "torch's own kernels gain nothing.",
    0.8,
    0.98,
    (
        Prune(
            "default",
            "{type: block, shape: [4, 1]}",
            "tensor",
            "sparsity",
            "All matrices are equally sparse: none is the slow one.",
        ),
    ),
)

GOALS = ("size", "speed")
HARDWARE = ("any", "cpu", "nvidia", "sparse-engine")


def advise(goal: str, hardware: str, *, attention: bool, convolutions: bool) -> Advice:
    """Return the recipe that suits; `attention` and `convolutions` say what the model has."""
    if goal == "size":
        return SMALL_TRANSFORMER if attention else SMALL
    if hardware == "nvidia":
        return FAST_TENSOR_CORES
    if hardware == "sparse-engine":
        return FAST_ENGINE
    return FAST_CONVOLUTIONS if convolutions and not attention else FAST_ANYWHERE


def compose(advice: Advice, *, name: str, model: str, sparsity: float | None, targets: str | None = None) -> str:
    """Return the recipe as YAML with comments. `targets` stands for `default` where the architecture is unknown."""
    head = write({"version": 1, "name": name, "summary": advice.summary})
    lines = [
        *_comment(advice.why),
        head.rstrip(),
        write({"about": {"base_model": model}}).rstrip(),
    ]
    variables = [prune.variable for prune in advice.prunes if not _is_number(prune.variable)]
    lines.append("variables:")
    for variable in variables:
        value = advice.sparsity if sparsity is None else sparsity
        lines.append(f"  # The fraction that ends at zero; another for one run: --set {variable}=…")
        lines.append(f"  {variable}: {{value: {value:g}, min: 0, max: {advice.most:g}}}")
    lines.append("  # Optimizer steps between two masks: the ramp has about seven tenths of the steps ÷ this.")
    lines.append("  every: {value: 10, type: integer, min: 1}")
    lines.append("modifiers:")
    for prune in advice.prunes:
        lines += _modifier(prune, targets)
    return "\n".join(lines) + "\n"


def _modifier(prune: Prune, targets: str | None) -> list[str]:
    chosen = targets if targets is not None and prune.targets == "default" else prune.targets
    to = prune.variable if _is_number(prune.variable) else f'"${{{prune.variable}}}"'
    return [
        *_comment(prune.why, "  "),
        "  - type: prune",
        f"    targets: {chosen}",
        f"    criterion: {prune.criterion}",
        f"    pattern: {prune.pattern}",
        f"    scope: {prune.scope}",
        "    # Many small cuts, most of them early, while the learning rate is high.",
        f"    sparsity: {{from: 0, to: {to}, curve: cubic}}",
        "    # The last 30 % of the training repair what the cuts have cost.",
        '    window: {begin: 5%, end: 70%, every: "${every}"}',
    ]


def _comment(text: str, indent: str = "") -> list[str]:
    return [f"{indent}# {line}" for line in textwrap.wrap(text, 100)]


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()
