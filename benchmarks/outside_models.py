"""What is found in models of timm, torchvision and ultralytics, and what eight recipes do there.

    python benchmarks/outside_models.py [LIBRARY …] [--only NAME …]

Prints tables for docs/models.md. Models have random weights; nothing is fetched. A library that is not installed is
passed over. Each model is read, eight recipes are planned, and three steps are trained under a masked one, whose zeros
are counted in the tensors themselves. Seconds are of the processor: a busy machine makes no difference.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from sparsify import Manager, Plan, PlanError, Recipe
from sparsify.anatomy import Anatomy, read
from sparsify.anatomy.told import told

RECIPES = ("gmp", "gmp-global", "block-4x1", "2-4", "heads", "neurons", "channels", "channels-coupled")
STEPS = 3
MASKED = """
version: 1
modifiers:
  - {type: prune, targets: default, allow_partial: true, sparsity: {to: 0.5, curve: constant}}
"""
TIMM = (
    "vit_tiny_patch16_224", "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_tiny",
    "mobilenetv3_small_100", "efficientnet_b0", "resnet18", "resnet50", "regnetx_002", "hrnet_w18_small",
    "vit_tiny_r_s16_p8_224", "eva02_tiny_patch14_224", "vit_relpos_small_patch16_224",
    "vit_medium_patch16_rope_reg1_gap_256", "mixer_s32_224",
    "maxvit_tiny_tf_224",
)  # fmt: skip
QK_NORM = {"vit-qk-norm": {"model_name": "vit_tiny_patch16_224", "qk_norm": True}}
TORCHVISION = (
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf", "convnext_tiny",
    "swin_t", "vit_b_16", "densenet121", "googlenet", "inception_v3", "squeezenet1_1", "shufflenet_v2_x1_0",
)  # fmt: skip
SEGMENTATION = ("deeplabv3_resnet50", "fcn_resnet50", "lraspp_mobilenet_v3_large")
DETECTION = (
    "fasterrcnn_mobilenet_v3_large_320_fpn", "retinanet_resnet50_fpn", "fcos_resnet50_fpn", "maskrcnn_resnet50_fpn",
    "ssd300_vgg16",
)  # fmt: skip
ULTRALYTICS = ("yolov5n", "yolov8n", "yolo11n", "yolov10n")

Case = tuple[Callable[[], nn.Module], Callable[[nn.Module], Tensor]]
"""What makes a model, and what makes a loss of it."""


def images(side: int) -> Tensor:
    """Return two images, always the same."""
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield the real numbers in an output."""
    if isinstance(value, Tensor):
        yield from [value] if value.is_floating_point() else []
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors(part)


def loss_at(side: int) -> Callable[[nn.Module], Tensor]:
    """Return what makes a loss of a model's outputs on images of a size."""
    return lambda model: torch.stack([each.square().mean() for each in tensors(model(images(side)))]).sum()


def detected(model: nn.Module) -> Tensor:
    """Return the loss of a detector of torchvision, which wants boxes."""
    boxes, labels, masks = torch.tensor([[8.0, 8.0, 60.0, 60.0]]), torch.tensor([1]), torch.ones(1, 96, 96)
    given = [{"boxes": boxes, "labels": labels, "masks": masks} for _ in range(2)]
    return torch.stack(list(tensors(model(list(images(96)), given)))).sum()


def timm() -> Iterator[tuple[str, Case]]:
    import timm as library

    for name in (*TIMM, *QK_NORM):
        options = QK_NORM.get(name, {"model_name": name})

        def make(options: dict[str, Any] = options) -> nn.Module:
            return library.create_model(**options, pretrained=False)

        side = 256 if name.endswith("256") else 224
        yield name, (make, loss_at(side))


def torchvision() -> Iterator[tuple[str, Case]]:
    from torchvision import models

    for name in TORCHVISION:
        more = {"aux_logits": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}

        def make(name: str = name, more: dict[str, Any] = more) -> nn.Module:
            return models.get_model(name, weights=None, **more)

        yield name, (make, loss_at(299 if name == "inception_v3" else 224 if name in ("vit_b_16", "swin_t") else 96))
    for name in (*SEGMENTATION, *DETECTION):
        small = {"min_size": 96, "max_size": 96} if name in DETECTION and not name.startswith("ssd") else {}

        def make_dense(name: str = name, small: dict[str, Any] = small) -> nn.Module:
            return models.get_model(name, weights=None, weights_backbone=None, **small)

        yield name, (make_dense, detected if name in DETECTION else loss_at(96))


def ultralytics() -> Iterator[tuple[str, Case]]:
    from ultralytics.nn.tasks import DetectionModel

    for name in ULTRALYTICS:

        def make(name: str = name) -> nn.Module:
            made: nn.Module = DetectionModel(f"{name}.yaml", verbose=False)
            return made.requires_grad_(True)

        yield name, (make, loss_at(64))


LIBRARIES = {"timm": timm, "torchvision": torchvision, "ultralytics": ultralytics}


def offered(anatomy: Anatomy, blocks: list[Any]) -> str:
    """Return whether heads or neurons are offered, or why not."""
    doubts = sorted({block.doubt for block in blocks if block.doubt})
    if not blocks:
        return "–"
    return ("verified" if anatomy.inferred else "declared") if not doubts else f"no: {'; '.join(doubts)}"


def planned(model: nn.Module) -> tuple[list[str], float]:
    """Return the recipes that cannot be planned, with the reason, and the most seconds that one took."""
    refused, slowest = [], 0.0
    for name in RECIPES:
        begun = time.process_time()
        try:
            Plan.of(Recipe.load(name), model, total_steps=1000)
        except PlanError as error:
            refused.append(f"{name}: {str(error).splitlines()[0].partition(': ')[2]}")
        slowest = max(slowest, time.process_time() - begun)
    return refused, slowest


def trained(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> str:
    """Return `right` where three steps under a mask leave the zeros that were asked for, else what is wrong."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    try:
        manager = Manager(Recipe.parse(MASKED)).apply(model, optimizer, total_steps=STEPS)
    except PlanError as error:
        return f"refused: {str(error).splitlines()[0]}"
    for _ in range(STEPS):
        manager.on_step_begin()
        optimizer.zero_grad()
        manager.on_loss(loss(model.train())).backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()
    manager.finalize()
    zeros = sum(int((weight.tensor == 0).sum()) for weight in manager.plan.targeted())
    total = sum(weight.geometry.elements for weight in manager.plan.targeted())
    return "right" if abs(zeros / total - 0.5) < 0.01 else f"{zeros / total:.1%} zeros"


def row(name: str, case: Case) -> tuple[str, list[str]]:
    """Return a line of the table, and what is refused."""
    make, loss = case
    torch.manual_seed(0)
    model = make()
    begun = time.process_time()
    anatomy = read(model)
    seconds = time.process_time() - begun
    if anatomy is None:
        return f"| {name} | – | – | – | – | 0 % | {seconds:.1f} | – | – |", []
    data = told(model, anatomy)
    counts = data["coverage"]
    missed = ", ".join(each["name"] for each in counts["missed"][:2])
    whole = counts["covered"] == counts["total"]
    covered = "100 %" if whole else f"{counts['covered'] / max(counts['total'], 1):.1%} (not {missed})"
    families = ", ".join(f"{each}{' (inferred)' if each in anatomy.inferred else ''}" for each in anatomy.families)
    refused, slowest = planned(model)
    cells = (
        name, families, len(anatomy.layers), offered(anatomy, anatomy.attentions),
        offered(anatomy, anatomy.feed_forwards), covered, f"{seconds:.1f}",
        f"{len(RECIPES) - len(refused)}, {slowest:.1f} s", trained(model, loss),
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |", [f"{name}: {reason}" for reason in refused]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("libraries", nargs="*", default=list(LIBRARIES))
    parser.add_argument("--only", nargs="*")
    chosen = parser.parse_args()
    for library in chosen.libraries:
        if importlib.util.find_spec(library) is None:
            print(f"\n{library} is not installed.")
            continue
        print(f"\n## {library} {version(library)}, torch {torch.__version__}\n")
        print("| model | families | layers | heads | neurons | `default` covers | read, s | recipes | three steps |")
        print("|---|---|---|---|---|---|---|---|---|")
        refused = []
        for name, case in LIBRARIES[library]():
            if chosen.only and name not in chosen.only:
                continue
            line, reasons = row(name, case)
            print(line, flush=True)
            refused += reasons
        print("\n" + "\n".join(f"- {each}" for each in refused), flush=True)


if __name__ == "__main__":
    main()
