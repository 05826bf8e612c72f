"""Which layers are converted, why others are not, and that a model stays the same model."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsify
from sparsify import KernelError, Manager, Recipe, StateError, to_dense, to_semi_structured
from sparsify.semi import Chosen
from sparsify.semi.kernels import Sizes, TorchKernels, of_torch
from tests.semi.on_cpu import CPUKernels, Net, OnCPU, two_of_four

TOKENS = torch.arange(24).view(2, 12)
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor")


def why(chosen: Chosen) -> dict[str, str]:
    return {choice.layer: choice.why for choice in chosen.layers if not choice.sparse}


def test_every_layer_is_converted_or_has_its_reason() -> None:
    chosen = to_semi_structured(Net(), kernels=CPUKernels())
    assert chosen.sparse == ("first", "second")
    reasons = why(chosen)
    assert reasons.pop("dense").startswith("no 2:4 zeros: 100.0% of its groups have more than two")
    assert reasons == {
        "narrow": "40 outputs: no multiple of 32",
        "short": "40 inputs: no multiple of 64",
        "tied": "tied: it is table.weight too",
        "apart": "its weight is computed from others (parametrized)",
        "attention.out_proj": "a NonDynamicallyQuantizableLinear uses its weight in its own way",
        "single": "dtype float32: there are kernels for float16, bfloat16",
    }


def test_one_group_too_many_is_counted() -> None:
    model = Net()
    with torch.no_grad():
        model.first.weight[3, 8:11] = 1.0
    assert why(to_semi_structured(model, kernels=CPUKernels()))["first"] == (
        "no 2:4 zeros: 1 of 2,048 of its groups have more than two"
    )


def test_the_model_is_the_same_and_can_be_taken_back() -> None:
    model = Net()
    model.second.weight.requires_grad_(False)
    keys, expected = list(model.state_dict()), model(TOKENS)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    chosen = to_semi_structured(model, kernels=CPUKernels(), sample=TOKENS)
    assert isinstance(model.first.weight, OnCPU)
    assert isinstance(model.first.weight, nn.Parameter)
    assert list(model.state_dict()) == keys
    most = float(expected.detach().abs().max())
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            assert float((model(TOKENS) - expected).detach().abs().max()) <= 0.01 * most
    again = to_semi_structured(model, kernels=CPUKernels())
    assert why(again)["first"] == "it is converted already"
    with pytest.raises(StateError, match="to_dense"):
        sparsify.save(model, "never-written")
    recipe = Recipe.parse("version: 1\nmodifiers:\n  - {type: prune, sparsity: 0.5, targets: first}\n")
    with pytest.raises(sparsify.PlanError, match=r"first\.weight.* has the form of 2:4 kernels.*to_dense"):
        Manager(recipe).apply(model, torch.optim.SGD(model.dense.parameters(), lr=0.1), total_steps=9)
    assert to_dense(model) == chosen.sparse == ("first", "second")
    assert to_dense(model) == ()
    assert model.first.weight.requires_grad
    assert not model.second.weight.requires_grad
    for name, parameter in model.named_parameters():
        assert type(parameter) is nn.Parameter
        assert torch.equal(parameter, before[name])


def test_only_what_is_faster_by_the_margin() -> None:
    def chosen(dense: float, **named: Any) -> tuple[bool, str]:
        kernels = CPUKernels(lambda sparse: 1.0 if sparse else dense)
        first = to_semi_structured(Net(), kernels=kernels, **named).layers[0]
        assert first.faster == pytest.approx(dense)
        return first.sparse, first.why

    assert chosen(0.91) == (False, "slower here: 0.91×")
    assert chosen(1.04) == (False, "not faster by 5% here: 1.04×")
    assert chosen(1.06) == (True, "")
    assert chosen(1.06, margin=0.2) == (False, "not faster by 20% here: 1.06×")
    assert chosen(1.0, margin=0) == (True, "")


def test_trials_go_in_turn_and_outliers_do_not_count() -> None:
    calls = iter(range(10_000))
    kernels = CPUKernels(lambda sparse: 50.0 if next(calls) % 7 == 0 else 1.0 if sparse else 1.5)
    first = to_semi_structured(Net(), kernels=kernels, tokens=96).layers[0]
    assert first.sparse
    assert first.faster == pytest.approx(1.5)
    assert kernels.order == [False, True] * (len(kernels.order) // 2)
    assert set(kernels.rows) == {96}
    assert first.tokens == 96


def test_a_sample_says_how_many_tokens_a_layer_gets() -> None:
    kernels = CPUKernels()
    model = Net().train()
    chosen = to_semi_structured(model, kernels=kernels, sample={"tokens": TOKENS})
    assert set(kernels.rows) == {24}
    assert model.training
    assert not model.first._forward_pre_hooks
    assert {choice.tokens for choice in chosen.layers if choice.sparse} == {24}
    unused = nn.Sequential(Net(), nn.Identity())
    unused[0].extra = nn.Linear(64, 64).bfloat16()
    with torch.no_grad():
        two_of_four(unused[0].extra.weight)
    assert why(to_semi_structured(unused, kernels=kernels, sample=(TOKENS,)))["0.extra"] == (
        "the model does not call it on the sample"
    )
    with pytest.raises(KernelError, match="cannot be run on the sample: TypeError"):
        to_semi_structured(Net(), kernels=kernels, sample={"tokns": TOKENS})


def test_a_model_that_fails_with_sparse_weights_has_its_dense_ones_again() -> None:
    class Reads(Net):
        def forward(self, tokens: Tensor) -> Tensor:
            return super().forward(tokens) + self.first.weight.sum()  # the sparse form has no sum

    model = Reads()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(KernelError, match="with its sparse weights the model fails, and has its dense ones again"):
        to_semi_structured(model, kernels=CPUKernels(), sample=TOKENS)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_kernels_that_fail_or_compute_something_else_are_not_used() -> None:
    class Refusing(CPUKernels):
        def compress(self, weight: Tensor) -> Tensor:
            raise RuntimeError("CUDA error: operation not supported\nmore")

    class Forgetful(CPUKernels):
        def dense(self, weight: Tensor) -> Tensor:
            return super().dense(weight) * 2

    class Wrong(CPUKernels):
        def compress(self, weight: Tensor) -> Tensor:
            found = super().compress(weight)
            found.__class__ = Off
            return found

    class Off(OnCPU):
        def _mm(self, *args: Any, **named: Any) -> Tensor:
            return super()._mm(*args, **named) * 1.5

    for kernels, reason in (
        (Refusing(), "the kernels fail: CUDA error: operation not supported"),
        (Forgetful(), "its compressed weight is another one when it is unpacked"),
        (Wrong(), "the kernels' output is off by 0.5 of the largest"),
    ):
        model = Net()
        chosen = to_semi_structured(model, kernels=kernels)
        assert chosen.sparse == ()
        assert why(chosen)["first"].startswith(reason)
        assert type(model.first.weight) is nn.Parameter


def test_choices_are_plain_data_and_are_made_again_without_a_trial() -> None:
    chosen = to_semi_structured(Net(), kernels=CPUKernels(lambda sparse: 1.0 if sparse else 1.5))
    data = json.loads(json.dumps(chosen.to_dict()))
    assert Chosen.from_dict(data) == chosen
    model, kernels = Net(), CPUKernels()
    again = to_semi_structured(model, kernels=kernels, choices=data)
    assert again.layers == chosen.layers
    assert not kernels.order
    assert isinstance(model.first.weight, OnCPU)
    lines = str(chosen).splitlines()
    assert lines[0].split() == ["layer", "shape", "tokens", "dense", "µs", "sparse", "µs", "faster", "2:4", "why"]
    assert lines[1].split() == ["first", "128", "×", "64", "1,024", "1500000.0", "1000000.0", "1.50×", "yes"]
    assert lines[-1] == "2 of 9 layers are sparse (cpu, in a test)"
    hostile = Chosen.from_dict({"format": 1, "layers": [{"layer": "a\x1b[31m", "sparse": False, "shape": [1, 2]}]})
    assert "\x1b" not in hostile.table()


def test_choices_of_another_model_are_refused_whole() -> None:
    data = to_semi_structured(Net(), kernels=CPUKernels()).to_dict()

    def changed(place: int, **named: Any) -> dict[str, Any]:
        layers = [dict(layer) for layer in data["layers"]]
        layers[place].update(named)
        return {**data, "layers": layers}

    for choices, reason in (
        (changed(1, layer="secnd"), "choices name secnd, which the model lacks"),
        (changed(1, shape=[64, 64]), "choices have second as 64 × 64; here it is 64 × 128"),
        (changed(2, sparse=True), "choices have dense sparse, which cannot be: no 2:4 zeros"),
        (changed(0, sparse="yes"), "true or false"),
        (changed(0, shape=[1]), "no shape of two whole numbers"),
        ({"layers": []}, "choices are what"),
        ([], "choices are what"),
    ):
        model = Net()
        with pytest.raises(KernelError, match=reason):
            to_semi_structured(model, kernels=CPUKernels(), choices=choices)  # type: ignore[arg-type]
        assert type(model.first.weight) is nn.Parameter


def test_a_cpu_is_one_clear_error() -> None:
    with pytest.raises(KernelError, match=r"the model is on the CPU, .* for CUDA alone\. .*sparsify compact"):
        to_semi_structured(Net())
    for model, named, reason in (
        (nn.Sequential(nn.Conv1d(4, 4, 1)), {}, "no `nn.Linear`"),
        (Net(), {"tokens": 0}, "tokens is 0"),
        (Net(), {"margin": float("nan")}, "margin is nan"),
        (nn.Linear(64, 64, device="meta"), {}, "no weights"),
    ):
        with pytest.raises(KernelError, match=reason):
            to_semi_structured(model, kernels=CPUKernels(), **named)


def test_a_manager_at_work_is_respected() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    recipe = Recipe.parse("version: 1\nmodifiers:\n  - {type: prune, sparsity: 0.5}\n")
    manager = Manager(recipe).apply(model, torch.optim.SGD(model.parameters(), lr=0.1), total_steps=10)
    for call in (to_semi_structured, to_dense):
        with pytest.raises(KernelError, match="a manager is still applied"):
            call(model)
    manager.detach()
    assert to_dense(model) == ()


def test_what_torch_says_of_its_own_kernels() -> None:
    """The tables that the documentation quotes, and the check that keeps other devices away."""
    kernels: Any = TorchKernels(torch.device("cpu"))
    assert kernels.sizes(torch.float16) == kernels.sizes(torch.bfloat16) == Sizes(32, 64), "CUTLASS, without cuSPARSELt"
    assert kernels.sizes(torch.float32) == Sizes(32, 32)
    assert kernels.sizes(torch.int8) is kernels.sizes(torch.float64) is None
    assert sorted(kernels.dtypes()) == ["bfloat16", "float16", "float32"]
    weight = Net().first.weight
    assert kernels.unfit(weight) == "on the CPU"
    with pytest.raises(RuntimeError, match="Only CUDA tensors are currently supported"):
        kernels.compress(weight)
    kernels._class = torch.sparse.SparseSemiStructuredTensorCUSPARSELT
    assert kernels.sizes(torch.bfloat16) == Sizes(16, 16)
    assert sorted(kernels.dtypes()) == ["bfloat16", "float16"], "eight bits multiply only with scales"
    assert kernels.is_sparse(CPUKernels().compress(weight))
    with pytest.raises(KernelError, match="on the META"):
        of_torch(torch.device("meta"))
