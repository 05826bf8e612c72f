"""From a goal and the hardware to a recipe with comments: which pattern pays where, and where nothing does yet."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

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
    but: str = ""
    """What whoever asked should know beside it."""

    @property
    def leaves(self) -> bool:
        """Whether what dies can leave the model afterwards."""
        return self.name in ("fast", "fast-channels")


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
_CUT = "Dead parts leave the model afterwards (`sparsify train --compact`, or `sparsify compact`);"
FAST_ANYWHERE = Advice(
    "fast",
    "Whole attention heads and whole neurons go: what is left is a smaller dense model.",
    f"Only structure makes ordinary dense kernels faster. {_CUT} half of the heads and neurons is about half of the "
    "encoder's work.",
    0.5,
    0.95,
    (
        Prune(
            "attention",
            "{type: head, reduce: l2, equal: true}",
            "global",
            "heads",
            "A head is pruned with its rows and columns; as many in every layer, so that more models load anywhere.",
        ),
        Prune(
            "ffn",
            "{type: neuron, reduce: l2, equal: true}",
            "global",
            "neurons",
            "A neuron goes from its inputs to its outputs.",
        ),
    ),
)
FAST_CHANNELS = Advice(
    "fast-channels",
    "Whole channels of convolutions go, each with everything that must die with it.",
    f"Only structure makes ordinary dense kernels faster. {_CUT} half of the channels is about a quarter of the work.",
    0.5,
    0.9,
    (
        Prune(
            "*",
            "{type: channel, coupled: true, reduce: l2}",
            "tensor",
            "sparsity",
            "Channels that meet in a sum or a depthwise convolution are one group, those of the stem too.",
        ),
    ),
)
FAST_CONVOLUTIONS = Advice(
    "fast-filters",
    "Whole filters of convolutions go.",
    "Only structure makes ordinary dense kernels faster. Which channels are coupled could not be found out, so dead "
    "filters may have to stay.",
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

_NO_STRUCTURE = "no heads, neurons or filters of this model are known, which would make it faster everywhere"
FAST_BLOCKS = replace(
    FAST_ENGINE,
    why=f"{_NO_STRUCTURE.capitalize()}. {FAST_ENGINE.why}",
    but=f"{_NO_STRUCTURE}: blocks pay off in sparse engines alone",
)

GOALS = ("size", "speed")
HARDWARE = ("any", "cpu", "nvidia", "sparse-engine")


def advise(goal: str, hardware: str, roles: Collection[str], *, convolutions: bool) -> list[Advice]:
    """Return the recipes that suit, the best first; `roles` and `convolutions` say what the model has."""
    if goal == "size":
        return [SMALL_TRANSFORMER, SMALL] if "attention" in roles else [SMALL]
    if hardware == "nvidia":
        return [FAST_TENSOR_CORES]
    if hardware == "sparse-engine":
        return [FAST_ENGINE]
    heads, neurons = FAST_ANYWHERE.prunes
    kept = [
        replace(FAST_ANYWHERE, prunes=prunes)
        for prunes in (FAST_ANYWHERE.prunes, (neurons,), (heads,))
        if all(prune.targets in roles for prune in prunes)
    ]
    return [*kept, *([FAST_CHANNELS, FAST_CONVOLUTIONS] if convolutions else []), FAST_BLOCKS]


@dataclass(frozen=True)
class Fit:
    """What a `prune` says of one model: selectors; `targets` are those of the advice where they are None."""

    targets: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Timing:
    """The window of a run of so many steps, in percent, and the steps between two masks."""

    begin: int
    end: int
    every: int

    @classmethod
    def of(cls, steps: int) -> Timing:
        """Return a window with a dozen masks or more where the run is long enough, and with three at least."""
        for begin, end in ((5, 70), (0, 100)):
            length = round(steps * end / 100) - round(steps * begin / 100)
            if length >= 2:
                break
        return cls(begin, end, max(1, min(10, length // 12)))


def compose(
    advice: Advice, *, model: str, sparsity: float | None, timing: Timing, fits: Sequence[Fit] | None = None
) -> str:
    """Return the recipe as YAML with comments; `fits` has one for each `prune` of the advice."""
    head = write({"version": 1, "name": advice.name, "summary": advice.summary})
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
    part = f"{timing.end - timing.begin} %"
    lines.append(f"  # Optimizer steps between two masks, all of them in {part} of the run; fewer for a shorter one.")
    lines.append(f"  every: {{value: {timing.every}, type: integer, min: 1}}")
    lines.append("modifiers:")
    for prune, fit in zip(advice.prunes, fits or [Fit()] * len(advice.prunes), strict=True):
        lines += _modifier(prune, fit, timing)
    return "\n".join(lines) + "\n"


def _modifier(prune: Prune, fit: Fit, timing: Timing) -> list[str]:
    to = prune.variable if _is_number(prune.variable) else f'"${{{prune.variable}}}"'
    rest = f"The last {100 - timing.end} % of the training repair" if timing.end < 100 else "Longer trainings repair"
    return [
        *_comment(prune.why, "  "),
        "  - type: prune",
        *_selectors("targets", fit.targets or (prune.targets,)),
        *(_selectors("exclude", fit.exclude) if fit.exclude else ()),
        f"    criterion: {prune.criterion}",
        f"    pattern: {prune.pattern}",
        f"    scope: {prune.scope}",
        "    # Many small cuts, most of them early, while the learning rate is high.",
        f"    sparsity: {{from: 0, to: {to}, curve: cubic}}",
        f"    # {rest} what the cuts have cost.",
        f'    window: {{begin: {timing.begin}%, end: {timing.end}%, every: "${{every}}"}}',
    ]


def _selectors(key: str, selectors: Sequence[str]) -> list[str]:
    """Return lines for a role as it is, or a list of names."""
    if len(selectors) == 1 and selectors[0].replace(".", "").isalpha():
        return [f"    {key}: {selectors[0]}"]
    return [f"    {key}:", *(f"      - {json.dumps(selector)}" for selector in selectors)]


def _comment(text: str, indent: str = "") -> list[str]:
    return [f"{indent}# {line}" for line in textwrap.wrap(text, 100)]


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()
