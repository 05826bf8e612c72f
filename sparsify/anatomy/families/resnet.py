"""Residual networks, as in transformers and torchvision, and most that are written by hand."""

from sparsify.anatomy.architecture import Architecture, register

register(
    Architecture(
        name="resnet",
        layers=("ResNetBasicLayer", "ResNetBottleNeckLayer", "BasicBlock", "Bottleneck"),
        others=(("shortcut", "shortcut*"), ("shortcut", "downsample*"), ("conv", "*")),
        fits=(("conv1", "conv2"), ("layer",)),  # YOLO's Bottleneck is another
        stacked=False,
        depths=(("resnet", ("depths",)),),
    )
)
