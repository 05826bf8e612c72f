"""Weights that are no Linear: which dimension is what, checked on what the modules compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import SparsifyError, register_layer
from sparsify.anatomy import FeedForward, routers
from sparsify.anatomy.experts import find
from sparsify.layers import Weight, all_weights, merged, unprunable
from sparsify.layers.registry import _known
from tests import experts

Run = Callable[[Tensor], Tensor]


class Times(nn.Module):
    """Somebody's layer: y = x W."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(6, 4))
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        return x @ self.kernel + self.bias


def _relative() -> Any:
    """Return XLNet's attention, of which only the projections are run."""
    from transformers import XLNetConfig
    from transformers.models.xlnet.modeling_xlnet import XLNetRelativeAttention

    attention = XLNetRelativeAttention(XLNetConfig(d_model=6, n_head=2, d_head=3, d_inner=8, vocab_size=8))
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    return attention


def _projected(module: Any, x: Tensor) -> Tensor:
    return torch.einsum("bh,hnd->bnd", x, module.q).flatten(1)


def _put_together(module: Any, x: Tensor) -> Tensor:
    return torch.einsum("bnd,hnd->bh", x.unflatten(1, (2, 3)), module.o)


def _second_input(module: Any, x: Tensor) -> Tensor:
    return module(torch.ones(len(x), 3), x)  # type: ignore[no-any-return]


CASES: dict[str, tuple[Callable[[], nn.Module], str, tuple[int, ...], Callable[[Any, Tensor], Tensor] | None]] = {
    "conv": (lambda: nn.Conv2d(4, 6, 2, groups=2), "weight", (1, 4, 3, 3), None),
    "deconv1d": (lambda: nn.ConvTranspose1d(4, 6, 3), "weight", (1, 4, 5), None),
    "deconv2d in groups": (lambda: nn.ConvTranspose2d(4, 6, 2, groups=2), "weight", (1, 4, 3, 3), None),
    "deconv3d": (lambda: nn.ConvTranspose3d(4, 6, 2), "weight", (1, 4, 2, 2, 2), None),
    "bilinear": (lambda: nn.Bilinear(3, 4, 5), "weight", (2, 4), _second_input),
    "rnn cell": (lambda: nn.RNNCell(4, 5), "weight_ih", (2, 4), None),
    "xlnet q": (_relative, "q", (2, 6), _projected),
    "xlnet o": (_relative, "o", (2, 6), _put_together),
}


def weight_of(module: nn.Module, attribute: str) -> Weight:
    """Return the weight of an attribute, as a whole."""
    return next(weight for weight in all_weights(module) if weight.attribute == attribute).whole


def clear(weight: Weight, rows: slice, columns: slice) -> None:
    """Write zeros into rows and columns of a weight, by way of its cube and back."""
    cube = weight.cube(weight.tensor).clone()
    cube[rows, :, columns] = 0
    weight.tensor.copy_(weight.uncube(cube))


@pytest.mark.parametrize("case", CASES)
def test_rows_are_outputs_and_columns_inputs(case: str) -> None:
    make, attribute, shape, run = CASES[case]
    torch.manual_seed(0)
    module = make()
    forward = run or (lambda module, x: module(x))
    weight = weight_of(module, attribute)
    size, x = weight.geometry, torch.randn(shape)
    groups, last = size.groups, size.rows - 1
    other = x.clone()
    seen = x.shape[1] // groups * (groups - 1)  # the first input of the last group, which the last row sees
    other[:, seen] += 1
    assert weight.cube(weight.tensor).shape == (size.rows, size.taps, size.columns)
    assert torch.equal(weight.uncube(weight.cube(weight.tensor)), weight.tensor)
    assert not torch.equal(forward(module, x)[:, last], forward(module, other)[:, last])
    clear(weight, slice(size.rows - size.rows // groups, None), slice(0, 1))
    assert torch.allclose(forward(module, x)[:, last], forward(module, other)[:, last]), "a column is an input"
    clear(weight, slice(last, None), slice(None))
    whole = torch.randn(shape)
    assert torch.allclose(forward(module, x)[:, last], forward(module, whole)[:, last]), "a row is an output"
    assert not torch.allclose(forward(module, x)[:, 0], forward(module, whole)[:, 0])


@pytest.mark.parametrize("case", CASES)
def test_rows_of_a_weight_are_views_of_it(case: str) -> None:
    make, attribute, _, _ = CASES[case]
    weight = weight_of(make(), attribute)
    rows = weight.geometry.rows
    before = weight.cube(weight.tensor).clone()
    for piece in weight.pieces(1, rows):
        piece.tensor.fill_(3.0)
    after = weight.cube(weight.tensor)
    assert torch.equal(after[0], before[0])
    assert bool((after[1:] == 3).all())
    assert sum(piece.geometry.rows for piece in weight.pieces(1, rows)) == rows - 1


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_matrices_and_their_biases(kind: Any) -> None:
    more = {"proj_size": 2} if kind is nn.LSTM else {}
    module = kind(4, 6, num_layers=2, bidirectional=True, **more)
    found = {weight.parameter_name: weight for weight in all_weights(module)}
    matrices = {name for name, parameter in module.named_parameters() if parameter.dim() == 2}
    assert set(found) == matrices
    assert len(matrices) == (12 if more else 8)
    bias = found["weight_hh_l1_reverse"].bias()
    assert bias is not None
    assert bias.parameter_name == "bias_hh_l1_reverse"
    assert not more or found["weight_hr_l0"].bias() is None
    x = torch.randn(3, 1, 4)
    found["weight_ih_l0"].tensor.zero_()
    found["weight_ih_l0_reverse"].tensor.zero_()
    assert torch.equal(module(x)[0], module(torch.randn(3, 1, 4))[0]), "what was pruned is what is computed"


@pytest.mark.parametrize("name", sorted(experts.MAKERS))
def test_an_expert_is_a_tensor_and_its_neurons_are_rows_and_columns(name: str) -> None:
    torch.manual_seed(0)
    module, run = experts.MAKERS[name]()
    (group,) = find("", module)
    assert len(group.members) == group.count == experts.COUNT
    x = torch.randn(24, experts.WIDTH)
    for index in (0, experts.COUNT - 1):
        member = group.members[index]
        assert member.neurons == experts.INNER
        check_neuron(member, lambda: run(x))
    every = [weight for weight in all_weights(module) if weight.stack]
    assert len({weight.name for weight in every}) == len(every)
    assert [weight.parameter_name for weight in merged(every)] == [stack.parameter_name for stack in group.stacks]
    alive = run(x)
    for _, weight in group.members[0].roles():
        weight.tensor.zero_()
    assert not torch.equal(run(x), alive)


def check_neuron(block: FeedForward, run: Callable[[], Tensor]) -> None:
    """What feeds a neuron that nothing reads is no matter, nor is what reads a neuron that nothing feeds."""
    ups = [block.up] if block.gate is None else [block.up, block.gate]
    neuron, before = 1, run()
    heights = [up.geometry.rows // block.neurons for up in ups]
    down = block.down.cube(block.down.tensor)
    kept = down[:, :, neuron].clone()
    down[:, :, neuron] = 0
    without = run()
    assert not torch.allclose(without, before)
    for up, height in zip(ups, heights, strict=True):
        rows = up.cube(up.tensor)[neuron * height : (neuron + 1) * height]
        rows.copy_(torch.randn(rows.shape))
    assert torch.allclose(run(), without, atol=1e-6)
    down[:, :, neuron] = kept
    for up, height in zip(ups, heights, strict=True):
        up.cube(up.tensor)[neuron * height : (neuron + 1) * height] = 0
        if (bias := up.bias()) is not None:
            bias.tensor[neuron * height : (neuron + 1) * height] = 0
    fed = run()
    down[:, :, neuron] = torch.randn(kept.shape)
    assert torch.allclose(run(), fed, atol=1e-6)


def test_a_registered_layer_is_prunable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsify.layers.registry._known", dict(_known))
    module = nn.Sequential(Times())
    assert all_weights(module) == []
    register_layer(Times, kernel="transposed")
    (weight,) = all_weights(module)
    assert weight.name == "0.kernel"
    assert (weight.geometry.rows, weight.geometry.columns) == (4, 6)
    bias = weight.bias()
    assert bias is not None
    assert bias.name == "0.bias"
    with pytest.raises(SparsifyError, match="cannot be stored as 'out, in'"):
        register_layer("Times", kernel="out, in")
    with pytest.raises(SparsifyError, match="name its weights"):
        register_layer(Times)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_what_cannot_be_masked_says_what_to_do() -> None:
    from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

    class Linear4bit(nn.Linear):
        """As bitsandbytes calls it."""

    class Packed(torch.Tensor):
        """As torchao's tensors are: no numbers of their own."""

        @staticmethod
        def __new__(cls, inner: Tensor) -> Packed:
            return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)  # type: ignore[no-any-return]

        @classmethod
        def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return cls(torch.empty(2, 2)) if "detach" in str(func) else NotImplemented

    hidden = nn.Linear(2, 2)
    hidden.weight = nn.Parameter(Packed(torch.empty(2, 2)), requires_grad=False)
    small = nn.Linear(2, 2)
    small.weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.float8_e4m3fn), requires_grad=False)
    whole = nn.Linear(2, 2)
    whole.weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)
    pruned = nn.Linear(2, 2)
    prune.l1_unstructured(pruned, "weight", 0.5)
    model = nn.ModuleDict(
        {
            "new": parametrizations.weight_norm(nn.Linear(2, 2)),
            "old": weight_norm(nn.Linear(2, 2)),
            "spectral": spectral_norm(nn.Linear(2, 2)),
            "recurrent": weight_norm(nn.LSTM(2, 2), "weight_hh_l0"),
            "pruned": pruned,
            "four": Linear4bit(2, 2),
            "hidden": hidden,
            "eight": small,
            "whole": whole,
            "plain": nn.Linear(2, 2),
        }
    )
    found = unprunable(model)
    assert [weight.name for weight in all_weights(model)] == ["recurrent.weight_ih_l0", "plain.weight"]
    wanted = {
        "new.weight": "parametrize.remove_parametrizations",
        "old.weight": "remove_weight_norm",
        "spectral.weight": "remove_spectral_norm",
        "recurrent.weight_hh_l0": "remove_weight_norm",
        "pruned.weight": "prune.remove",
        "four": "Linear4bit",
        "hidden.weight": "Packed",
        "eight.weight": "float8_e4m3fn",
        "whole.weight": "int8",
    }
    assert set(found) == set(wanted)
    for name, word in wanted.items():
        assert word in found[name]


def test_routers_are_found_by_structure() -> None:
    for make in experts.MODELS.values():
        names = {weight.parameter_name.split("mlp.")[1] for weight in routers(make())}
        assert names in ({"gate.weight"}, {"router.weight"}, {"gate.weight", "shared_expert_gate.weight"})
