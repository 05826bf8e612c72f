"""What a plan changes of a model that lies under adapters: whoever saves the adapters alone loses it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from sparsify.layers import adapted, base_names
from sparsify.modifiers.plans import ModifierPlan
from sparsify.structure.change import Change

NOTE = (
    "what is changed lies under adapters, and save_pretrained() saves adapters alone: SparsifyCallback of transformers "
    "saves the base beside them, in output_dir/base, when the last update is made (earlier checkpoints are there to be "
    "resumed); elsewhere call sparsify.adapters.save_base(model, folder). PEFT's merging fills zeros; "
    "sparsify.adapters.merge(model) keeps them"
)


def altered(model: nn.Module, plans: Iterable[ModifierPlan], changes: Mapping[str, Change]) -> list[str]:
    """Return the keys of the modifiers that change what lies under adapters."""
    under: set[int] = set()
    for _, module in adapted(model):
        names = base_names(module)
        under |= {id(p) for name, p in module.named_parameters(remove_duplicate=False) if name in names}
    if not under:
        return []
    by_mask = [plan.key for plan in plans if any(id(weight.parameter) in under for weight in plan.masked)]
    by_norm = [plan.key for plan in plans if plan.rescales is not None]
    return [*by_mask, *by_norm, *(key for key, change in changes.items() if change.alters)]


def notes(model: nn.Module, plans: Iterable[ModifierPlan], changes: Mapping[str, Change]) -> list[str]:
    """Say what must be saved beside the adapters; nothing where nothing lies under any."""
    found = altered(model, plans, changes)
    return [f"{', '.join(found)}: {NOTE}"] if found else []
