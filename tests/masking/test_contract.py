"""What a criterion must keep to: every breach is a ScoreError that names criterion and tensor, on every path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor

from sparsify import ScoreError, SparsifyError
from sparsify.criteria import Criterion
from sparsify.criteria.base import NEEDS, Place
from sparsify.layers import Weight
from sparsify.masking import Competition, pieces
from sparsify.masking.scorer import Scorer
from sparsify.patterns import Pattern
from sparsify.scopes import Scope
from tests.competing import compete, weight_of


@pytest.fixture(autouse=True)
def _gone_after_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Criterion, "_members", dict(Criterion.members()))


def criterion(score: Any, **members: Any) -> Criterion:
    """Return a criterion called `mine` with this method."""
    annotations = {"type": Literal["mine"]} | {name: ClassVar[Any] for name in members if not callable(members[name])}
    space = {"__module__": __name__, "__qualname__": "Mine", "__annotations__": annotations, "type": "mine"}
    made: type[Criterion] = type("Mine", (Criterion,), space | members | {"score": score})
    return made.parse({"type": "mine"})


PATHS: dict[str, tuple[Any, Any]] = {
    "single weights": ("unstructured", "tensor"),
    "together": ("unstructured", "global"),
    "bounded": ("unstructured", {"type": "global", "floor": 0.1, "ceiling": 0.9}),
    "rows": ("unstructured", "row"),
    "guarded": ("2:4", "tensor"),
    "guarded rows": ("2:4", "row"),
    "blocks": ({"type": "block", "shape": [4, 4]}, "global"),
    "rows of blocks": ({"type": "block", "shape": [4, 4]}, "row"),
    "columns": ("column", "tensor"),
}

BREACHES: dict[str, tuple[Any, str]] = {
    "one number": (lambda self, w, place: w.abs().mean(), "one score for each weight"),
    "a number of Python": (lambda self, w, place: 1.0, r"must return a tensor, and returned float 1\.0"),
    "nothing": (lambda self, w, place: None, "must return a tensor, and returned nothing"),
    "a list": (lambda self, w, place: w.tolist(), "must return a tensor, and returned list"),
    "flat and one more": (lambda self, w, place: torch.ones(w.numel() + 1), "one score for each weight"),
    "another shape": (lambda self, w, place: w.abs().unsqueeze(0), "one score for each weight"),
    "bool": (lambda self, w, place: w != 0, "floating-point numbers, .* are bool"),
    "int": (lambda self, w, place: (w * 9).long(), "floating-point numbers, .* are int64"),
    "complex": (lambda self, w, place: w.to(torch.complex64), "floating-point numbers, .* are complex64"),
    "float8": (lambda self, w, place: w.to(torch.float8_e5m2), "floating-point numbers, .* are float8"),
    "sparse": (lambda self, w, place: w.abs().to_sparse(), "floating-point numbers, .* sparse_coo"),
    "another device": (lambda self, w, place: w.abs().to("meta"), "cpu, and are on meta"),
    "abs_": (lambda self, w, place: w.abs_(), "writes into the weights"),
    "mul_ on a view": (lambda self, w, place: w.view(-1)[:1].mul_(2).new_ones(w.shape), "writes into the weights"),
    "through .data": (lambda self, w, place: w.data.abs_().clone(), "writes into the weights"),
    "through numpy": (lambda self, w, place: torch.from_numpy(abs(_doubled(w.numpy()))), "writes into the weights"),
    "noise": (lambda self, w, place: torch.rand(w.shape), "must return the same scores"),
    "NaN": (lambda self, w, place: w / 0 * 0, "hold NaN values"),
    "infinite": (lambda self, w, place: w.abs() / 0, "hold infinite values"),
    "an exception": (lambda self, w, place: w.no_such_method(), "raised AttributeError"),
    "the mean of a piece": (lambda self, w, place: (w - w.mean()).abs(), "depend on how the tensor is cut"),
    "the rank in a piece": (lambda self, w, place: w.view(-1).argsort().argsort().view(w.shape) / w.numel(), "cut"),
}


def _doubled(array: Any) -> Any:
    array *= 2
    return array


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("breach", BREACHES)
def test_a_breach_names_criterion_and_tensor_and_changes_nothing(path: str, breach: str) -> None:
    score, sentence = BREACHES[breach]
    tensors = {"model.a": torch.randn(8, 8), "model.b": torch.randn(8, 8)}
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    pattern, scope = PATHS[path]
    with pytest.raises(ScoreError, match=rf"criterion 'mine': model\.a: .*{sentence}"):
        compete(tensors, 0.3, criterion(score), pattern, scope)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors.items())


@pytest.mark.parametrize("breach", BREACHES)
def test_a_lock_is_held_to_it_too(breach: str) -> None:
    score, sentence = BREACHES[breach]
    axes = criterion(score, keeps_zeros=True), Pattern.parse("unstructured"), Scope.parse("tensor")
    bundles, _ = axes[1].bundles([weight_of("a", torch.randn(8, 8))], None)
    with pytest.raises(ScoreError, match=rf"criterion 'mine': a: .*{sentence}"):
        Competition.of(bundles, *axes).lock()


LATE: dict[str, tuple[Any, str]] = {
    "one number": (lambda w: w.abs().mean(), "one score for each weight"),
    "bool": (lambda w: w != 0, "floating-point"),
    "abs_": (lambda w: w.abs_(), "writes into"),
    "NaN": (lambda w: w / 0 * 0, "NaN"),
    "another dtype": (lambda w: w.abs().double(), "of one dtype, and are of float32 and float64"),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("breach", LATE)
def test_a_breach_that_comes_late_is_found_too(path: str, breach: str) -> None:
    """The first weights are answered well."""
    wrong, sentence = LATE[breach]
    pattern, scope = PATHS[path]
    mine = criterion(lambda self, w, place: w.abs() if place.start < 2048 else wrong(w))
    with pytest.MonkeyPatch.context() as patch:
        tiny(patch, 256)
        patch.setattr(pieces, "PROBE", 512)
        with pytest.raises(ScoreError, match=rf"criterion 'mine': a: .*{sentence}"):
            compete({"a": torch.randn(64, 64)}, 0.3, mine, pattern, scope)


def tiny(patch: pytest.MonkeyPatch, weights: int) -> None:
    """Cut tensors into pieces of so many weights."""
    for name, size in (("CHUNK", {"cpu": weights}), ("PIECE", weights), ("SMALL", 12), ("SAMPLE", 24)):
        patch.setattr(pieces, name, size)


@pytest.mark.parametrize("crowd", [False, True])
def test_a_criterion_that_changes_its_mind_later_ends(crowd: bool) -> None:
    asked = iter(range(10**9))

    def score(self: Any, w: Tensor, place: Place) -> Tensor:
        number = next(asked)
        return w.abs() if number < 8 else torch.full_like(w, number % 7) if crowd else (w + number).sin()

    with pytest.MonkeyPatch.context() as patch:
        tiny(patch, 32)
        mine = criterion(score)
        for sparsity in (0.1, 0.5, 0.9):
            for scope in ("tensor", {"type": "global", "floor": 0.05, "ceiling": 0.95}):
                try:
                    masks = compete({"a": torch.randn(64, 64)}, sparsity, mine, scope=scope)
                except ScoreError as error:
                    assert "criterion 'mine': a" in str(error)
                else:
                    assert masks["a"].shape == (64, 64)


class Norms:
    """Scores that look at the whole tensor, and how they should come out."""

    @staticmethod
    def statistics(self: Any, weight: Tensor, place: Place) -> Any:
        assert weight.shape == (place.shape[0], place.shape[1] * place.shape[2])
        return {"columns": weight.double().square().sum(0), "rows": weight.double().abs().amax(1)}

    @staticmethod
    def score(self: Any, weight: Tensor, place: Place) -> Tensor:
        columns, rows = place.statistics["columns"], place.statistics["rows"]
        return weight.abs() * columns[place.inputs(weight)] + rows[place.rows(weight)]


def norms(**members: Any) -> Criterion:
    return criterion(Norms.score, needs=frozenset({"statistics"}), statistics=Norms.statistics, **members)


def whole_scores(tensor: Tensor) -> Tensor:
    """Return the scores of `Norms` in the shape of the tensor."""
    cube = tensor.double().unsqueeze(1) if tensor.dim() == 2 else tensor.double().flatten(2).transpose(1, 2)
    flat = cube.flatten(1)
    scores = (flat.abs() * flat.square().sum(0) + flat.abs().amax(1, keepdim=True)).view(cube.shape)
    return scores.squeeze(1) if tensor.dim() == 2 else scores.transpose(1, 2).reshape(tensor.shape)


def shapes() -> Iterator[Tensor]:
    yield torch.randn(40, 24)
    yield torch.randn(24, 40).t()
    yield torch.randn(8, 16, 3, 3)
    yield torch.randn(8, 16, 3, 3).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("whole_rows", [False, True])
@pytest.mark.parametrize("size", [7, pytest.param(13, marks=pytest.mark.slow), 256, 1 << 20])
def test_statistics_of_the_whole_tensor_are_right_in_pieces(size: int, whole_rows: bool) -> None:
    for tensor in shapes():
        right = whole_scores(tensor).flatten()
        wanted = torch.ones(right.numel(), dtype=torch.bool)
        wanted[right.argsort(stable=True)[: round(0.7 * right.numel())]] = False
        with pytest.MonkeyPatch.context() as patch:
            tiny(patch, size)
            mask = compete({"a": tensor}, 0.7, norms(whole_rows=whole_rows))["a"]
            assert torch.equal(mask.flatten(), wanted)
            scorer = Scorer(weight_of("a", tensor), norms())
            cube = torch.cat([scorer.rows(first, first + 1) for first in range(len(tensor))])
            assert torch.equal(scorer.cube.double().sign() * 0 + cube, scorer.rows(0, len(tensor)))


@pytest.mark.parametrize("size", [7, 1 << 20])
def test_statistics_of_a_region_of_a_fused_matrix_are_those_of_the_region(size: int) -> None:
    from transformers.pytorch_utils import Conv1D

    linear, transposed = torch.nn.Linear(16, 24), Conv1D(24, 16)
    regions = [
        Weight("l.weight", linear, "weight", "linear").rows(8, 16),
        Weight("t.weight", transposed, "weight", "transposed").rows(8, 16),
    ]
    axes = norms(), Pattern.parse("unstructured"), Scope.parse("tensor")
    with pytest.MonkeyPatch.context() as patch:
        tiny(patch, size)
        masks = Competition.of(axes[1].bundles(regions, None)[0], *axes).masks(lambda arena: 0.5)
    for region in regions:
        right = whole_scores(region.cube(region.tensor).squeeze(1)).flatten()
        wanted = torch.ones(right.numel(), dtype=torch.bool)
        wanted[right.argsort(stable=True)[: right.numel() // 2]] = False
        assert torch.equal(region.cube(masks[region.name]).flatten(), wanted)


def test_statistics_are_right_at_full_size() -> None:
    """The fault that was found: from 1024 × 1024 on, a column's norm was the norm of a piece of it."""
    tensor = torch.randn(1500, 1100) * torch.rand(1100)
    right = whole_scores(tensor).flatten()
    wanted = torch.ones(right.numel(), dtype=torch.bool)
    wanted[right.argsort(stable=True)[: round(0.6 * right.numel())]] = False
    assert torch.equal(compete({"a": tensor}, 0.6, norms())["a"].flatten(), wanted)
    per_row = compete({"a": tensor}, 0.6, norms(), scope="row")["a"]
    order = whole_scores(tensor).argsort(dim=1, stable=True)
    assert torch.equal(per_row, torch.ones_like(per_row).scatter(1, order[:, :660], False))


def test_statistics_are_asked_for_once_a_tensor_and_update() -> None:
    asked: list[str] = []

    def counted(self: Any, weight: Tensor, place: Place) -> Any:
        asked.append(place.name)
        return Norms.statistics(self, weight, place)

    mine = criterion(Norms.score, needs=frozenset({"statistics"}), statistics=counted)
    axes = mine, Pattern.parse("unstructured"), Scope.parse("global")
    weights = [weight_of(name, torch.randn(64, 64)) for name in "ab"]
    competition = Competition.of(axes[1].bundles(weights, None)[0], *axes)
    with pytest.MonkeyPatch.context() as patch:
        tiny(patch, 100)
        competition.masks(lambda arena: 0.5)  # the criterion is examined too
        asked.clear()
        competition.masks(lambda arena: 0.6)
    assert asked == ["a", "b"]


@pytest.mark.parametrize(
    ("statistics", "sentence"),
    [
        (lambda self, w, place: None, "must return a tensor, or several by name, and returned nothing"),
        (lambda self, w, place: 3.0, "returned float"),
        (lambda self, w, place: {"a": 3.0}, "returned dict"),
        (lambda self, w, place: w.mul_(2), "`statistics` writes into the weights"),
        (lambda self, w, place: w.sum(7), "`statistics` raised IndexError"),
    ],
)
def test_wrong_statistics_are_refused(statistics: Any, sentence: str) -> None:
    mine = criterion(lambda self, w, place: w.abs(), needs=frozenset({"statistics"}), statistics=statistics)
    tensor = torch.randn(8, 8)
    before = tensor.clone()
    with pytest.raises(ScoreError, match=rf"criterion 'mine': a: .*{sentence}"):
        compete({"a": tensor}, 0.5, mine)
    assert torch.equal(tensor, before)


@pytest.mark.parametrize(
    ("needs", "sentence"),
    [
        (frozenset({"statistic"}), r"Mine: unknown need 'statistic' \(did you mean 'statistics'\?\)"),
        (frozenset({"activations", "inputs"}), r"Mine: unknown need 'activations'"),
        ("statistics", r"Mine: `needs` must be a set"),
        (frozenset({3}), r"Mine: unknown need '3'"),
        (frozenset({"statistics"}), "needs 'statistics' and has no method `statistics`"),
    ],
)
def test_needs_are_checked_where_the_class_is_defined(needs: Any, sentence: str) -> None:
    with pytest.raises(SparsifyError, match=sentence):
        criterion(lambda self, w, place: w.abs(), needs=needs)
    assert "mine" not in Criterion.members()


def test_a_method_that_is_never_asked_is_refused() -> None:
    with pytest.raises(SparsifyError, match="has a method `statistics` and does not need it"):
        criterion(lambda self, w, place: w.abs(), statistics=Norms.statistics)


def test_every_criterion_of_ours_needs_what_is_known() -> None:
    assert all(member.needs <= NEEDS for member in Criterion.members().values())
