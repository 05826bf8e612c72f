"""Which heads and neurons live under given masks, also where several query heads share a key and a value."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

from sparsify import Manager, Recipe
from sparsify.anatomy import read
from sparsify.layers import Weight
from sparsify.structure.units import Block, living
from tests.loop import masks_of

HEADS, GROUPS, SIZE = 4, 2, 4


def llama() -> nn.Module:
    """Return a Llama of one layer with 4 query heads on 2 key and value heads."""
    return LlamaModel(
        LlamaConfig(
            hidden_size=HEADS * SIZE, num_hidden_layers=1, num_attention_heads=HEADS, num_key_value_heads=GROUPS,
            intermediate_size=6, vocab_size=12, max_position_embeddings=8, pad_token_id=0, bos_token_id=0,
            eos_token_id=0,
        )
    )  # fmt: skip


def found(block: Block, pruned: dict[str, Tensor]) -> dict[str, list[bool]]:
    """Return which units of each matrix live, by the last part of its name; `pruned` are masks by the same name."""

    def mask(weight: Weight) -> Tensor:
        kept = torch.ones(weight.shape, dtype=torch.bool)
        return pruned.get(weight.name.split(".")[-2], kept)

    return {part.weight.name.split(".")[-2]: kept.tolist() for part, kept in living(block, mask)}


def test_a_dead_value_head_takes_its_own_queries() -> None:
    anatomy = read(llama())
    assert anatomy is not None
    (block,) = anatomy.attentions
    value = torch.ones(GROUPS * SIZE, HEADS * SIZE, dtype=torch.bool)
    value[:SIZE] = False  # the first group: queries 0 and 1
    heads = found(block, {"v_proj": value})
    assert heads["q_proj"] == heads["o_proj"] == [False, False, True, True]
    assert heads["k_proj"] == heads["v_proj"] == [False, True]


def test_a_group_lives_while_one_of_its_queries_does() -> None:
    anatomy = read(llama())
    assert anatomy is not None
    (block,) = anatomy.attentions
    output = torch.ones(HEADS * SIZE, HEADS * SIZE, dtype=torch.bool)
    output[:, 3 * SIZE :] = False
    output[:3, 2 * SIZE : 3 * SIZE] = False  # something of the third head is left
    heads = found(block, {"o_proj": output, "q_proj": torch.zeros(HEADS * SIZE, HEADS * SIZE, dtype=torch.bool)})
    assert heads["q_proj"] == [True, True, True, False], "a head without a query attends evenly: it lives"
    assert heads["k_proj"] == heads["v_proj"] == [True, True]


def test_a_neuron_is_dead_where_up_or_gate_or_down_is() -> None:
    anatomy = read(llama())
    assert anatomy is not None
    (block,) = anatomy.feed_forwards
    up, gate = (torch.ones(6, HEADS * SIZE, dtype=torch.bool) for _ in range(2))
    down = torch.ones(HEADS * SIZE, 6, dtype=torch.bool)
    up[0], gate[2], down[:, 4], down[1:, 5] = False, False, False, False
    neurons = found(block, {"up_proj": up, "gate_proj": gate, "down_proj": down})
    assert set(map(tuple, neurons.values())) == {(False, True, False, True, False, True)}
    assert len(neurons) == 3


def step(model: nn.Module, optimizer: torch.optim.Optimizer, manager: Manager) -> None:
    manager.on_step_begin()
    optimizer.zero_grad()
    model(input_ids=torch.tensor([[1, 2, 3]])).last_hidden_state.square().sum().backward()
    manager.on_before_optimizer_step()
    optimizer.step()
    manager.on_step_end()


def test_fill_keeps_the_queries_of_living_values_alone() -> None:
    model = llama()
    with torch.no_grad():
        model.get_parameter("layers.0.self_attn.v_proj.weight")[:SIZE] = 0
    text = (
        "version: 1\nmodifiers:\n  - {type: prune, targets: attention, criterion: existing}\n"
        "  - {type: fill, targets: attention, begin: 1}\n"
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    manager = Manager(Recipe.parse(text)).apply(model, optimizer, total_steps=2)
    step(model, optimizer, manager)
    masks = masks_of(manager)
    queries = masks["layers.0.self_attn.q_proj.weight"].view(HEADS, -1)
    assert queries.any(1).tolist() == queries.all(1).tolist() == [False, False, True, True]


def test_a_fill_whose_time_is_over_under_a_changed_recipe_is_made_at_once() -> None:
    model = llama()
    with torch.no_grad():
        model.get_parameter("layers.0.self_attn.v_proj.weight")[:SIZE] = 0
    lock = "version: 1\nmodifiers:\n  - {type: prune, targets: attention, criterion: existing}\n"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    manager = Manager(Recipe.parse(lock)).apply(model, optimizer, total_steps=6)
    step(model, optimizer, manager)
    step(model, optimizer, manager)
    state = manager.state_dict()
    filled = lock + "  - {type: fill, targets: attention, begin: 1}\n"
    manager = Manager(Recipe.parse(filled)).apply(model, optimizer, total_steps=6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        manager.load_state_dict(state, allow_changed_recipe=True)
    step(model, optimizer, manager)
    assert not bool(masks_of(manager)["layers.0.self_attn.q_proj.weight"][: 2 * SIZE].any())
