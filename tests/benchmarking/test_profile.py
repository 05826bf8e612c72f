"""`sparsify benchmark --profile`: functions by module and kind, that add up to a whole forward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsify import KernelError, engine
from sparsify.benchmarking.engines import ENGINES, Forward
from sparsify.benchmarking.kinds import ATTENTION, BETWEEN, DENSE, KINDS, OTHER, SPARSE, kind_of
from sparsify.benchmarking.profile import OUTSIDE, Cell, Profile, layer_of
from sparsify.benchmarking.profile_tables import MOST, profiles
from sparsify.benchmarking.profiling import profile
from sparsify.engine.chosen import Choice, Chosen
from tests import tiny
from tests.benchmarking.test_command import QUICK, call, half
from tests.benchmarking.test_points import HALF, result


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm = nn.Linear(8, 16), nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(self.norm(self.up(x))) @ torch.ones(16, 8) + x


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 8)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Parameter(torch.randn(8, 4))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        for block in self.blocks:
            x = block(x)
        return x @ self.head


IDS = torch.arange(9).view(1, 9)


def calls(found: Profile) -> dict[tuple[str, str], int]:
    return {(cell.module, cell.kind): cell.calls for cell in found.cells if cell.kind not in (BETWEEN, OTHER)}


def test_every_function_is_found_in_its_module_and_all_add_up() -> None:
    model = Net()
    found = profile(Forward(model, {"ids": IDS}))
    wanted = {("table", "embeddings"): 1, ("", DENSE): 1}
    for number in range(3):
        inside = f"blocks.{number}"
        wanted |= {(f"{inside}.up", DENSE): 1, (f"{inside}.norm", "norms"): 1}
        wanted |= {(inside, "activations"): 1, (inside, ATTENTION): 1, (inside, "sums and other arithmetic"): 1}
    assert calls(found) == wanted
    assert sum(cell.seconds for cell in found.cells) == pytest.approx(found.seconds)
    for sums in (found.kinds(), found.layers(), found.roles()):
        assert sum(each.seconds for each in sums) == pytest.approx(found.seconds)
        assert sum(each.share for each in sums) == pytest.approx(1)
        assert sum(each.calls for each in sums) == sum(cell.calls for cell in found.cells)
    assert [each.name for each in found.layers()] == [OUTSIDE, "blocks.0", "blocks.1", "blocks.2"]
    assert next(each.calls for each in found.roles() if each.name == "blocks.*.up: dense products") == 3
    assert found.kinds()[-1].name == BETWEEN
    assert found.kinds()[-1].seconds > 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_time_of_a_function_is_where_it_was_spent() -> None:
    model = nn.Sequential(nn.Linear(1500, 10), nn.Linear(10, 1500), nn.Linear(1500, 1500), nn.Linear(1500, 10))
    found = profile(Forward(model, {"input": torch.randn(300, 1500)}))
    longest = max(found.cells, key=lambda cell: cell.seconds)
    assert (longest.module, longest.kind) == ("2", DENSE), "a hundred times the work of any other"


def test_what_a_model_raises_is_raised_and_leaves_no_hooks() -> None:
    model = Net()
    with pytest.raises(IndexError):
        profile(Forward(model, {"ids": torch.tensor([[99]])}))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_operations_of_the_engine_are_those_that_it_does() -> None:
    if engine.missing():
        pytest.skip("the engine was not compiled")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.Linear(512, 256))
    with torch.no_grad():
        model[0].weight.mul_(torch.rand(512, 256) < 0.1)
    kept = int(model[0].weight.count_nonzero())
    engine.accelerate(model, choices=Chosen((Choice("0", (512, 256), "unstructured"),), ""))
    found = profile(Forward(model, {"input": torch.randn(5, 20, 256)}))
    cell = next(cell for cell in found.cells if cell.kind == SPARSE)
    assert (cell.module, cell.calls, cell.operations) == ("0", 1, 2 * kept * 100)
    assert {each.operations for each in found.cells if each.kind != SPARSE} == {0}
    assert found.peak is not None
    share = found.kinds()[0].of_peak
    assert share == pytest.approx(cell.operations / cell.seconds / found.peak)
    assert 0 < share < 1, "nothing is faster than the processor"


def test_operations_of_attention_are_those_of_keys_that_count() -> None:
    if engine.missing():
        pytest.skip("the engine was not compiled")

    class Attention(nn.Module):
        def forward(self, q: torch.Tensor, mask: torch.Tensor | None = None, causal: bool = False) -> torch.Tensor:
            return engine.attend(q, q[:, :2], q[:, :2], 0.5, mask=mask, causal=causal)

    q, mask = torch.randn(3, 4, 10, 8), torch.arange(10) < torch.tensor([2, 10, 5]).view(3, 1, 1, 1)
    for given, pairs in (({}, 3 * 100), ({"mask": mask}, 17 * 10), ({"causal": True}, 3 * 55)):
        found = profile(Forward(Attention(), {"q": q, **given}))
        (cell,) = [each for each in found.cells if each.operations]
        assert (cell.kind, cell.operations) == (ATTENTION, 4 * 4 * 8 * pairs)


def test_the_peak_is_that_of_the_instructions() -> None:
    if engine.missing():
        pytest.skip("the engine was not compiled")
    assert 1e9 < engine.peak(1) <= 1.5 * engine.peak()
    assert engine.peak() > 2e9
    with pytest.raises(KernelError, match="lacks the instructions"):
        engine.peak(99)


def test_kinds_and_layers_have_names() -> None:
    x, weight = torch.ones(2, 2), nn.Parameter(torch.ones(2, 2))
    assert kind_of(torch.matmul, (x, weight)) == DENSE
    assert kind_of(torch.matmul, (x, x)) == ATTENTION
    assert kind_of(functional.scaled_dot_product_attention, (x, x, x)) == ATTENTION
    assert kind_of(torch.linalg.inv, (x,)) == OTHER
    assert len(set(KINDS)) == len(KINDS)
    assert layer_of("bert.encoder.layer.11.output.dense") == "bert.encoder.layer.11"
    assert layer_of("h.0") == "h.0"
    assert layer_of("0") == "0"
    assert layer_of("conv2d.x1") == OUTSIDE


def test_long_tables_end_with_what_is_left() -> None:
    cells = [Cell(module=f"part{n}", kind=DENSE, calls=1, seconds=0.01, operations=0) for n in range(MOST + 4)]
    whole = Profile(seconds=0.01 * len(cells), forwards=5, peak=None, cells=cells)
    case = result([HALF], against=None).cases[0]
    case = case.model_copy(update={"timings": [case.timings[0].model_copy(update={"profile": whole})]})
    ((sentence, (kinds, roles)),) = profiles(case)
    assert "half, torch: a forward of 200 ms, the median of 5 watched ones" in sentence
    assert kinds == (("kind", "calls", "time", "share"), [("dense products", "20", "200 ms", "100.0%")])
    assert roles[1][-1] == ("4 more", "4", "40.0 ms", "20.0%")
    assert len(roles[1]) == MOST + 1


def test_the_command_says_where_the_time_goes(tmp_path: Path) -> None:
    folder = tiny.text_model(tmp_path / "model", layers=2)
    half(folder)
    engines = "torch" if ENGINES["sparse"].missing() else "torch,sparse"
    html = tmp_path / "out.html"
    words: tuple[Any, ...] = (folder, *QUICK, "--seq-len", 8, "--engine", engines, "--profile", "--html", html)
    shown = call(*words)
    assert shown.exit_code == 0, shown.output
    for text in (shown.output, html.read_text()):
        for word in (
            "watched ones",
            "encoder.layer.1",
            "between functions",
            "attention and softmax",
            "outside of layers",
        ):
            assert word in text
    done = call(*words, "--json")
    assert done.exit_code == 0, done.output
    for timing in json.loads(done.stdout)["cases"][0]["timings"]:
        cells = timing["profile"]["cells"]
        assert sum(cell["seconds"] for cell in cells) == pytest.approx(timing["profile"]["seconds"])
        products = [cell for cell in cells if cell["kind"] in (DENSE, SPARSE)]
        assert sum(cell["calls"] for cell in products) == 2 * 6 + 1, "six a layer, and the pooler"


def test_engines_that_show_no_layers_are_said(tmp_path: Path) -> None:
    folder = tiny.text_model(tmp_path / "model", layers=1)
    done = call(folder, *QUICK, "--engine", "onnxruntime", "--profile")
    assert done.exit_code == 1
    assert "--profile cannot look into onnxruntime: name one of torch, sparse with --engine" in done.output
    done = call(folder, *QUICK, "--seq-len", 8, "--engine", "torch,onnxruntime", "--profile")
    assert done.exit_code == 0, done.output
    assert "onnxruntime shows no layers: its forwards were not profiled" in " ".join(done.output.split())
    assert call(tmp_path / "run.json", "--png", tmp_path / "out.png", "--profile").exit_code == 2


@pytest.mark.skipif(engine.missing() is not None, reason="the engine was not compiled")
def test_convolutions_of_the_engine_are_sparse_products() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU()).eval()
    with torch.no_grad():
        model[0].weight.mul_(torch.arange(216).view(8, 3, 3, 3) % 10 == 0)  # type: ignore[operator]
    engine.accelerate(model, choices=Chosen((Choice("0", (8, 27), "unstructured"),), "given"))
    found = profile(Forward(model, {"input": torch.randn(2, 3, 16, 16)}))
    (cell,) = (cell for cell in found.cells if cell.kind == SPARSE)
    assert (cell.module, cell.calls) == ("0", 1)
    assert cell.operations == 2 * 22 * 2 * 8 * 8, "22 weights are left, for 8 × 8 places of 2 images"
