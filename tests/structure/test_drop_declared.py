"""Layer dropping in every declared family: the model that is left, and the folder that stock transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsify import Manager, PlanError, Recipe
from sparsify.anatomy import read
from sparsify.anatomy.samples import samples
from sparsify.anatomy.trial import flat
from tests.anatomy.declared import CASES, CONFIGS, make
from tests.majors import OLD

COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers")
REFUSED = {
    "Qwen2MoeForCausalLM": "would be loaded as a Qwen2MoeSparseMoeBlock",
    "Glm4MoeForCausalLM": "num_nextn_predict_layers is 1",
    "SwinForImageClassification": "is shifted by its place",
    "SegformerForImageClassification": "changes the shape of what flows through it",
    "DPTForDepthEstimation": "resize is a ConvTranspose2d, and would be loaded as a Identity",
    "YolosForObjectDetection": "mid_position_embeddings is",
    "BigBirdForSequenceClassification": "attention.seed is 2, and would be loaded as 1",
    "EsmForSequenceClassification": "contact_head.in_features is 16, and would be loaded as 12",
}
if OLD:  # its layers take their kind from their number, not from the configuration; the other's have no such field
    REFUSED["ModernBertForSequenceClassification"] = "attn.local_attention is"
    del REFUSED["Glm4MoeForCausalLM"]
FIXED = ("MarianMTModel", "DecisionTransformerModel")
"""The first computes its positions anew when it is loaded; nothing here tells what the second takes."""


def deeper(kind: str, place: int) -> Any:
    """Return a model of four layers in each stack."""
    config = CONFIGS[kind][place]
    more: dict[str, Any] = {name: 4 for name in COUNTS if name in config} or {"num_hidden_layers": 4}
    if "attention_types" in config:
        more["attention_types"] = [[["global", "local"], 2]]
    if "depths" in config:
        more = {"depths": [4] * len(config["depths"])}
    return make(kind, place, **more)


def outputs(model: Any) -> Tensor:
    """Return what a model makes of inputs that are always the same."""
    reason: Exception | None = None
    for arguments, named in samples(model):
        torch.manual_seed(0)
        try:
            with torch.no_grad():
                return flat(model(*arguments, **named))
        except (RuntimeError, ValueError, IndexError) as error:  # not for this model
            reason = error
    raise AssertionError(reason)


def skip(_: Any, arguments: Any, named: Any, output: Any) -> Any:
    """Hand on what a layer was given."""
    given = arguments[0] if arguments else named["hidden_states"]
    return (given, *output[1:]) if isinstance(output, tuple) else given


@pytest.mark.parametrize(("kind", "place"), [case for case in CASES if case[0] not in FIXED])
def test_the_rest_computes_what_it_did_and_loads_as_such(kind: str, place: int, tmp_path: Path) -> None:
    anatomy = read(deeper(kind, place))
    assert anatomy is not None
    second = [layer for layer in anatomy.layers if layer.index == 1 and not layer.inferred]
    stacks = [layer.stack for layer in second if not layer.fixed or kind in REFUSED]
    if any(stack.startswith("encoder.block") for stack in stacks):
        stacks = [stack for stack in stacks if stack.startswith("decoder")] or stacks  # T5's must not be longer
    for stack in stacks:
        names = [layer.name for layer in anatomy.layers if layer.stack == stack]
        kept = [number for number in range(len(names)) if number != 1]
        recipe = Recipe.parse(f"version: 1\nmodifiers:\n  - {{type: layer_drop, keep: {kept}, stack: {stack}}}\n")
        model, whole = deeper(kind, place), deeper(kind, place)
        if kind in REFUSED:
            with pytest.raises(PlanError, match=REFUSED[kind]):
                Manager(recipe).attach(model)
            return
        Manager(recipe).attach(model)
        whole.get_submodule(names[1]).register_forward_hook(skip, with_kwargs=True)
        found = outputs(model)
        torch.testing.assert_close(found, outputs(whole), atol=1e-5, rtol=1e-4)
        model.save_pretrained(tmp_path / stack)
        loaded, said = type(model).from_pretrained(tmp_path / stack, output_loading_info=True)
        assert not said["missing_keys"]
        assert not said["unexpected_keys"]
        torch.testing.assert_close(outputs(loaded.eval()), found, atol=1e-6, rtol=1e-5)
