"""TRL's SFTTrainer, where it is installed: pruning is right, distillation right or refused before the first step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sparsify import HookError, Recipe
from sparsify.integrations.transformers import SparsifyCallback

trl = pytest.importorskip("trl", exc_type=ImportError)
pytestmark = [pytest.mark.usefixtures("quiet_libraries"), pytest.mark.filterwarnings("default")]  # those of TRL


def llama(seed: int) -> Any:
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {"num_key_value_heads": 2, "intermediate_size": 64, "vocab_size": 40, "max_position_embeddings": 64}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **more, pad_token_id=0))


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"[PAD]": 0, "[EOS]": 1, **{f"w{index}": index for index in range(2, 40)}}
    made = Tokenizer(models.WordLevel(words, unk_token="[PAD]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", eos_token="[EOS]")


def trainer(folder: Path, text: str, teacher: Any = None, **more: Any) -> tuple[Any, SparsifyCallback]:
    import datasets

    made = torch.Generator().manual_seed(0)
    lines = [
        " ".join(f"w{int(word)}" for word in torch.randint(2, 40, (3 + row % 4,), generator=made)) for row in range(24)
    ]
    callback = SparsifyCallback(
        Recipe.parse(f"version: 1\nmodifiers:\n{text}"), bindings={"teacher": teacher} if teacher is not None else {}
    )
    arguments = trl.SFTConfig(
        str(folder),
        per_device_train_batch_size=4,
        num_train_epochs=2,
        learning_rate=1e-2,
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        max_length=16,
        **more,
    )
    rows = datasets.Dataset.from_dict({"text": lines})
    found = trl.SFTTrainer(
        llama(0), args=arguments, train_dataset=rows, processing_class=tokenizer(), callbacks=[callback]
    )
    found.remove_callback(transformers.PrinterCallback)
    return found, callback


@pytest.mark.parametrize("more", [{}, {"gradient_accumulation_steps": 2}, {"packing": True}, {"max_grad_norm": 0.0}])
@pytest.mark.parametrize("criterion", ["magnitude", "movement"])
def test_pruning(tmp_path: Path, criterion: str, more: dict[str, Any]) -> None:
    recipe = f"  - {{type: prune, criterion: {criterion}, sparsity: 0.5, window: {{every: 1 step, end: 90%}}}}\n"
    made, callback = trainer(tmp_path, recipe, **more)
    made.train()
    assert callback.density is not None
    assert callback.density.targeted.sparsity == pytest.approx(0.5, abs=1e-3)
    for weight in callback.manager.plan.targeted():
        zeros = int((weight.tensor == 0).sum())
        assert zeros == pytest.approx(weight.geometry.elements / 2, abs=1), weight.name
    assert all(math.isfinite(entry["loss"]) for entry in made.state.log_history if "loss" in entry)


@pytest.mark.parametrize("terms", ["logits: {}", "hidden: {}", "logits: {}, cache: {}", "logits: {}, hidden: {}"])
def test_distillation_is_refused_before_the_first_step_or_right(tmp_path: Path, terms: str) -> None:
    """TRL makes its loss of log-probabilities that are fused with the output layer; older versions had logits."""
    made, callback = trainer(tmp_path, f"  - {{type: distill, {terms}}}\n", llama(1))
    before = [parameter.detach().clone() for parameter in made.model.parameters()]
    try:
        made.train()
    except HookError as error:
        assert "no logits among the outputs" in str(error) or "backward() was not called on the loss" in str(error)
        assert all(torch.equal(one, other) for one, other in zip(before, made.model.parameters(), strict=True))
        return
    found = callback.manager._runs[0].report()
    assert found["losses"] == made.state.global_step * made.args.gradient_accumulation_steps
