"""What layer dropping leaves: ordinary smaller models, which transformers loads where sparsify is not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsify import Manager, Plan, PlanError, Recipe
from tests.majors import OLD
from tests.models import MODELS

LAYERS = {
    "bert": "num_hidden_layers", "roberta": "num_hidden_layers", "distilbert": "n_layers", "vit": "num_hidden_layers",
    "gpt2": "n_layer", "llama": "num_hidden_layers", "mobilebert": "num_hidden_layers", "modernbert": "num_hidden_layers",
    "t5": "num_layers", "t5-gated": "num_layers", "bart": "encoder_layers",
}  # fmt: skip
if OLD:
    del LAYERS["modernbert"]  # its layers take their kind from their number
STACKS = {"t5": "decoder", "t5-gated": "decoder", "bart": "encoder"}
DECODERS = ("gpt2", "llama", "t5", "bart")

READER = """
import json, sys, torch, transformers
sys.modules["sparsify"] = None  # importing it fails
found = {}
for name, (kind, folder) in json.load(open(sys.argv[1])).items():
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    inputs = torch.load(folder + "/inputs.pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    torch.save(logits, folder + "/logits.pt")
    if name in json.loads(sys.argv[2]):
        kept = {key: value for key, value in inputs.items() if not key.startswith("decoder")}
        options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
        options |= {"decoder_start_token_id": 0} if model.config.is_encoder_decoder else {}
        cached = model.generate(**kept, use_cache=True, **options)
        found[name] = bool(torch.equal(cached, model.generate(**kept, use_cache=False, **options)))
print(json.dumps(found))
"""


def dropped(name: str) -> Any:
    """Return a model of four layers, of which the second is dropped."""
    import transformers

    torch.manual_seed(0)
    kind = getattr(transformers, MODELS[name].kind)
    model = kind(kind.config_class(**{**MODELS[name].config, LAYERS[name]: 4})).eval()
    stack = f", stack: {STACKS[name]}" if name in STACKS else ""
    recipe = Recipe.parse(f"version: 1\nmodifiers:\n  - {{type: layer_drop, keep: [0, 2, 3]{stack}}}\n")
    Manager(recipe).attach(model)
    return model


@pytest.fixture(scope="module")
def read(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, bool]]:
    """Return logits before saving, logits in another process, and whether a cache changes what is generated."""
    place = tmp_path_factory.mktemp("folders")
    folders, before = {}, {}
    for name in LAYERS:
        model, inputs = dropped(name), MODELS[name].inputs()
        with torch.no_grad():
            before[name] = model(**inputs).logits
        model.save_pretrained(place / name)
        torch.save(inputs, place / name / "inputs.pt")
        folders[name] = (MODELS[name].kind, str(place / name))
    (place / "folders.json").write_text(json.dumps(folders))
    done = subprocess.run(
        [sys.executable, "-c", READER, str(place / "folders.json"), json.dumps(DECODERS)],
        capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, cwd=place,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    after = {name: torch.load(Path(folder) / "logits.pt") for name, (_, folder) in folders.items()}
    return before, after, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", LAYERS)
def test_another_process_gives_the_same_logits(name: str, read: Any) -> None:
    before, after, _ = read
    assert torch.equal(before[name], after[name])


@pytest.mark.parametrize("name", DECODERS)
def test_a_cache_generates_the_same(name: str, read: Any) -> None:
    assert read[2][name]


@pytest.mark.parametrize("name", LAYERS)
def test_it_computes_what_the_layers_that_stay_compute(name: str) -> None:
    """The reference: the whole model, in which the layer that goes hands on what it was given."""
    import transformers

    torch.manual_seed(0)
    kind = getattr(transformers, MODELS[name].kind)
    whole = kind(kind.config_class(**{**MODELS[name].config, LAYERS[name]: 4})).eval()
    from sparsify.anatomy import read as anatomy_of

    anatomy = anatomy_of(whole)
    assert anatomy is not None
    first = anatomy.layers[0].stack
    stack = next((layer.stack for layer in anatomy.layers if STACKS.get(name, "") in layer.stack), first)
    gone = next(layer for layer in anatomy.layers if layer.stack == stack and layer.index == 1)

    def skip(module: Any, arguments: Any, named: Any, output: Any) -> Any:
        given = arguments[0] if arguments else named["hidden_states"]
        return (given, *output[1:]) if isinstance(output, tuple) else given

    whole.get_submodule(gone.name).register_forward_hook(skip, with_kwargs=True)
    inputs = MODELS[name].inputs()
    with torch.no_grad():
        wanted = whole(**inputs).logits
        found = dropped(name)(**inputs).logits
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_an_encoder_shorter_than_its_decoder_could_not_generate() -> None:
    """Stock transformers makes T5's cache as long as its encoder."""
    import transformers

    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**{**MODELS["t5"].config, "num_layers": 4}))
    drop = "  - {type: layer_drop, keep: [0, 1, 3], stack: STACK}\n"
    encoder, decoder = (drop.replace("STACK", stack) for stack in ("encoder", "decoder"))
    with pytest.raises(
        PlanError, match="decoder.block has 4, and transformers' cache has an entry for each of the encoder's"
    ):
        Plan.of(Recipe.parse(f"version: 1\nmodifiers:\n{encoder}"), model)
    plan = Plan.of(Recipe.parse(f"version: 1\nmodifiers:\n{decoder}{encoder}"), model)
    assert [len(change.kept) for change in plan.changes.values()] == [3, 3]
