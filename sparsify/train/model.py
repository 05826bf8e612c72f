"""A pretrained model with a head for the task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from sparsify import heads, widths
from sparsify.anatomy import ROLES, read
from sparsify.configs import config_of
from sparsify.errors import PlanError, did_you_mean, first_line
from sparsify.selectors import SelectorError, matcher
from sparsify.train.labels import Labels


def config_for(name: str, task: str) -> Any:
    """Return the configuration of `name`, if transformers has its architecture with a head for `task`.

    Raises PlanError for a name that does not exist, or a model that has no head for the task.
    """
    config: Any = config_of(name)
    heads.check_head(name, config, task)
    return config


def load(
    name: str, task: str, config: Any, labels: Labels | None, loaded: nn.Module | None = None
) -> tuple[nn.Module, list[str]]:
    """Return the model with a head for `labels`, if it has any, and notes on what is new in it. Raises PlanError.

    One that has been `loaded` already is returned as it is.
    """
    if loaded is not None:
        return loaded, []
    if labels is not None and tuple(config.id2label[i] for i in sorted(config.id2label)) != labels.names:
        heads.set_labels(config, labels.names)
    maker, kind = heads.auto_class(config, task, widths.read(name))
    code = {} if kind else {"trust_remote_code": False}
    try:
        model, info = maker.from_pretrained(
            name, config=config, ignore_mismatched_sizes=True, output_loading_info=True, **code
        )
    except Exception as error:  # the library raises of every kind
        raise PlanError(f"{name}: the model cannot be loaded: {first_line(error)}") from None
    if kind is not None:
        model.__class__ = kind
    _refuse_misfits(name, model, [_key(entry) for entry in info["mismatched_keys"]])
    new = {*info["missing_keys"], *(_key(entry) for entry in info["mismatched_keys"])}
    return model.float(), heads.told(name for name, _ in model.named_parameters() if name in new)


def _refuse_misfits(name: str, model: nn.Module, keys: Sequence[str]) -> None:
    """Raise PlanError where weights of another shape are not those of the head, which is new for new labels."""
    body = f"{getattr(model, 'base_model_prefix', '')}."
    wrong = [key for key in keys if body != "." and key.startswith(body)]
    if wrong:
        raise PlanError(
            f"{name}: {wrong[0]} has another shape in the file of weights than config.json says: they belong to "
            "different models"
        )


def _key(entry: Any) -> str:
    return entry if isinstance(entry, str) else str(entry[0])


def freeze(model: nn.Module, selectors: Sequence[str]) -> int:
    """Stop training what the selectors name: a role (`attention`; `embeddings`, with their norms) or modules by name.

    Returns how many parameters that are. Raises PlanError for a selector that names nothing, or spares nothing.
    """
    frozen = 0
    for selector in selectors:
        found = _meant(model, selector)
        if not found:
            near = did_you_mean(selector, [*ROLES, *(name for name, _ in model.named_modules() if name)])
            raise PlanError(f"--freeze {selector}: nothing in the model has that name{near}")
        for parameter in found:
            frozen += parameter.numel() if parameter.requires_grad else 0
            parameter.requires_grad_(False)
    if frozen and not any(parameter.requires_grad for parameter in model.parameters()):
        raise PlanError(f"--freeze {', '.join(selectors)}: nothing in the model would be left to train")
    return frozen


def _meant(model: nn.Module, selector: str) -> list[nn.Parameter]:
    if selector == "embeddings":
        base: Any = getattr(model, "base_model", model)
        return [p for name, part in base.named_children() if "embed" in name for p in part.parameters()]
    anatomy = read(model)
    if selector in ROLES and anatomy is not None:
        return [weight.parameter for weight in anatomy.role(selector)]
    try:
        meant = matcher(selector)
    except SelectorError as error:
        raise PlanError(f"--freeze {selector}: {error}") from None
    return [p for name, module in model.named_modules() if name and meant(name, module) for p in module.parameters()]
