"""Makes the operations of a file for each model family.

The names and the order of the submodules are those in `recu_jax.models`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from recu_jax.deploy.build import NO_PADDING, PAD_1, PAD_3, BlockParts, Builder
from recu_jax.errors import UserError
from recu_jax.models import create_model
from recu_jax.models.cifar_resnet import CifarResNet, OneShortcutBlock
from recu_jax.models.cifar_vgg import CifarVgg
from recu_jax.models.imagenet_resnet import ImagenetResNet
from recu_jax.models.parts import blocks
from recu_jax.models.react_resnet import ReactResNet
from recu_jax.models.resnet import BasicBlock, ResNet
from recu_jax.references import is_reference


def _cifar_resnet(b: Builder, model: CifarResNet, x: int, image_shape: Sequence[int]) -> None:
    x = b.norm(b.real_conv(x, "conv1"), "bn1")
    if model.stem_activation:
        x = b.add("hard_tanh", [x])
    one_shortcut = model.block is OneShortcutBlock
    for name, features, stride in blocks(model.stage_sizes, model.widths):
        conv1, bn1, conv2, bn2 = (f"{name}/{part}" for part in ("conv1", "bn1", "conv2", "bn2"))
        shortcut = b.avg_pool(x, stride) if stride != 1 else x
        if extra := features - b.channels(x):
            low = extra // 2
            shortcut = b.add("pad_channels", [shortcut], features, channels=[low, extra - low])
        if one_shortcut:
            y = b.conv_norm(x, conv1, bn1, stride, then=f"{name}/nonlinear1", only_signs=True)
        else:
            y = b.nonlinearity(b.add_shortcut(b.conv_norm(x, conv1, bn1, stride), shortcut), f"{name}/nonlinear1")
            shortcut = y
        x = b.nonlinearity(b.add_shortcut(b.conv_norm(y, conv2, bn2), shortcut), f"{name}/nonlinear2")
    b.dense(b.norm(b.add("mean", [x]), "bn2"), "linear")


def _cifar_vgg(b: Builder, model: CifarVgg, x: int, image_shape: Sequence[int]) -> None:
    last = len(model.widths) - 1
    x = b.add("hard_tanh", [b.norm(b.real_conv(x, "conv0"), "bn0")])
    for i in range(1, last + 1):
        pool = i in model.pooled
        x = b.conv_norm(x, f"conv{i}", f"bn{i}", pool=pool, then=f"nonlinear{i}", only_signs=i != last)
    # The model flattens features in PyTorch's order (channel, row, column). The operation "flatten" uses (row, column,
    # channel), so the kernel's rows are permuted.
    kernel: Any = b.param("fc", "kernel")
    channels = model.widths[-1]
    height, width = (side // 2 ** len(model.pooled) for side in image_shape[:2])
    kernel = kernel.reshape(channels, height, width, -1).transpose(1, 2, 0, 3).reshape(kernel.shape)
    b.dense(b.add("flatten", [x], kernel.shape[0]), "fc", kernel)


def _stem(b: Builder, x: int, conv: str, norm: str, activation: str | None) -> int:
    x = b.norm(b.real_conv(x, conv, 2, PAD_3), norm)
    return b.stem_pool(b.add(activation, [x]) if activation else x)


def _projection(b: Builder, x: int, name: str, features: int, stride: int) -> int:
    """Adds the shortcut of `models.parts.projection`, and returns the number of its last operation.

    Returns `x`, the number of the input, if the shape does not change.
    """
    if stride == 1 and b.channels(x) == features:
        return x
    return b.norm(b.real_conv(x, f"{name}/downsample_0", stride, NO_PADDING), f"{name}/downsample_1")


def _imagenet_resnet(b: Builder, model: ImagenetResNet, x: int, image_shape: Sequence[int]) -> None:
    x = _stem(b, x, "conv1", "bn1", "hard_tanh")
    for name, features, stride in blocks(model.stage_sizes, model.widths):
        shortcut = _projection(b, x, name, features, stride)
        y = b.conv_norm(x, f"{name}/conv1", f"{name}/bn1", stride)
        y = b.nonlinearity(b.add_shortcut(y, shortcut), f"{name}/nonlinear1")
        x = b.add_shortcut(b.conv_norm(y, f"{name}/conv2", f"{name}/bn2"), y)
        x = b.nonlinearity(x, f"{name}/nonlinear2")
    b.dense(b.norm(b.add("mean", [x]), "bn2"), "fc")


def _react_resnet(b: Builder, model: ReactResNet, x: int, image_shape: Sequence[int]) -> None:
    x = _stem(b, x, "conv", "bn", None)
    for name, features, stride in blocks(model.stage_sizes, model.widths):
        y = b.conv_norm(b.move(x, f"{name}/move0"), f"{name}/conv", f"{name}/bn", stride)
        if stride != 1 or b.channels(x) != features:
            x = b.real_conv(b.avg_pool(x, stride), f"{name}/downsample_1", 1, NO_PADDING)
            x = b.norm(x, f"{name}/downsample_2")
        x = b.rprelu(b.add_shortcut(y, x), *(f"{name}/{part}" for part in ("move1", "nonlinear", "move2")))
    b.dense(b.add("mean", [x]), "fc")


def _resnet(b: Builder, model: ResNet, x: int, image_shape: Sequence[int]) -> None:
    x = _stem(b, x, "conv1", "bn1", "relu")
    basic = model.block is BasicBlock
    for name, features, stride in blocks(model.stage_sizes, model.widths):
        # Kernel size and stride of each convolution.
        parts = [(3, stride), (3, 1)] if basic else [(1, 1), (3, stride), (1, 1)]
        shortcut = _projection(b, x, name, features if basic else 4 * features, stride)
        for i, (size, step) in enumerate(parts, start=1):
            padding = PAD_1 if size == 3 else NO_PADDING
            x = b.norm(b.real_conv(x, f"{name}/conv{i}", step, padding), f"{name}/bn{i}")
            x = b.add("relu", [x]) if i < len(parts) else x
        x = b.add("relu", [b.add_shortcut(x, shortcut)])
    b.dense(b.add("mean", [x]), "fc")


_FAMILIES: dict[type, Callable[..., None]] = {
    CifarResNet: _cifar_resnet,
    CifarVgg: _cifar_vgg,
    ImagenetResNet: _imagenet_resnet,
    ReactResNet: _react_resnet,
    ResNet: _resnet,
}


def operations(
    name: str,
    variables: Mapping[str, Any],
    parts: BlockParts,
    image_shape: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Makes the operations and arrays of a model, from uint8 images to logits.

    Args:
      name: name of the model, as for `create_model`.
      variables: `{"params": ..., "batch_stats": ...}`.
      parts: convolutions, binarizers and nonlinearity of the model.
      image_shape: (height, width, channels).
      mean: mean of each channel, for pixels scaled to [0, 1].
      std: standard deviation of each channel, for pixels scaled to [0, 1].

    Raises:
      UserError: the name is unknown, the model is the user's own, or no function here makes the model's operations.
    """
    if is_reference(name):
        raise UserError(
            f"model is {name!r}, of your own, and a file holds models of recu_jax alone; `recu predict WORKDIR` "
            "runs it as it is, and recu_jax.pack makes its weights bits"
        )
    model = create_model(name)
    family = next((write for kind, write in _FAMILIES.items() if isinstance(model, kind)), None)
    if family is None:
        raise UserError(f"model {name!r} cannot be exported; {__name__} does not know a {type(model).__name__}")
    b = Builder(variables, parts)
    x = b.add("image", [], image_shape[-1], shape=list(image_shape), mean=list(mean), std=list(std))
    family(b, model, x, image_shape)
    return b.operations, b.arrays
