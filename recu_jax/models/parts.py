"""Defines the full-precision parts that the models share."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from recu_jax.binarizers.react import RPRelu
from recu_jax.errors import UserError, unknown
from recu_jax.layers import Tau, kaiming_normal
from recu_jax.ops.conv import per_channel
from recu_jax.ops.max_pool import max_pool, pooled

# PyTorch's padding=1. "SAME" differs at stride 2, where it pads 0 before and 1 after an even number of pixels.
PAD_1 = ((1, 1), (1, 1))
PAD_3 = ((3, 3), (3, 3))
# Nonlinearities between the binary convolutions. The paper's models use hardtanh. With `identity`, a unit ends with its
# shortcut, as in Bi-Real net (Liu et al., ECCV 2018, arXiv 1808.00278).
NONLINEARITIES = ("hard_tanh", "rprelu", "identity")

first_conv = partial(nn.Conv, kernel_size=(3, 3), padding=PAD_1, use_bias=False, kernel_init=kaiming_normal)
# The first convolution of a network for 224x224 images.
stem_conv = partial(first_conv, kernel_size=(7, 7), strides=2, padding=PAD_3)
pointwise_conv = partial(first_conv, kernel_size=(1, 1), padding="VALID")


def halved(x: jax.Array, window: Literal[2, 3], train: bool) -> jax.Array:
    """Halves height and width of x, (batch, height, width, channels), by max pooling, as `max_pool` does.

    Args:
      x: real numbers.
      window: 2 or 3.
      train: whether a gradient is wanted.
    """
    # `max_pool` has the faster gradient, but no forward-mode derivative.
    return max_pool(x, window) if train else pooled(x, window)


def avg_pool(x: jax.Array, window: int, stride: int) -> jax.Array:
    """Averages x, (batch, height, width, channels), over windows, as `nn.avg_pool` does.

    Flax's function divides by a NumPy integer, which `jax_numpy_dtype_promotion="strict"` refuses for bfloat16.
    """
    return nn.pool(x, 0.0, lax.add, (window, window), (stride, stride), "VALID") / window**2


def nonlinearity(kind: str, recomputed: bool = False, **types: Any) -> Callable[[jax.Array, str], jax.Array]:
    """Returns a function of two arguments, x and a name, that applies a nonlinearity to x.

    Call the function within a module. If the nonlinearity has variables, it becomes the submodule of this name.

    Args:
      kind: one of `NONLINEARITIES`.
      recomputed: whether RPReLU keeps only its input for the backward pass, which computes the rest again. This is
        faster on CPUs: a step of `cifar_resnet20` with 64 images takes one core 201 ms instead of 228.
      **types: `dtype` and `param_dtype`.

    Raises:
      UserError: `kind` is unknown.
    """
    if kind not in NONLINEARITIES:
        raise unknown("nonlinearity", kind, NONLINEARITIES)
    if kind == "rprelu":
        layer: Any = nn.remat(RPRelu) if recomputed else RPRelu
        return lambda x, name: layer(name=name, **types)(x)
    return hard_tanh if kind == "hard_tanh" else lambda x, name: x


def hard_tanh(x: jax.Array, name: str) -> jax.Array:
    """Applies hardtanh, the nonlinearity of the paper's models. It has no variables, so it ignores `name`."""
    return jax.nn.hard_tanh(x)


def projection(
    x: jax.Array,
    features: int,
    stride: int,
    conv: Callable[..., nn.Module],
    norm: Callable[..., nn.Module],
    train: bool,
) -> jax.Array:
    """Returns the shortcut of a block: `x` itself, or a 1x1 convolution and batch norm of x where the shape changes.

    Call this function within a block. The layers become the block's submodules `downsample_0` and `downsample_1`.
    """
    if stride == 1 and x.shape[-1] == features:
        return x
    x = conv(features, strides=stride, name="downsample_0")(x)
    return norm(name="downsample_1")(x, use_running_average=not train)


def check_halved_evenly(images: jax.Array, maps: jax.Array, times: int) -> None:
    """Raises UserError unless both sides of `maps` can be halved `times` times. Shortcuts with 2x2 pooling need this.

    Args:
      images: input of the model, (batch, height, width, channels), for the message.
      maps: input of the stages, (batch, height, width, channels).
      times: number of stages with stride 2.
    """
    if any(side == 0 or side % 2**times for side in maps.shape[1:3]):
        height, width = images.shape[1:3]
        raise UserError(
            f"images are {height}x{width}, {maps.shape[1]}x{maps.shape[2]} before the first shortcut; the model needs "
            f"multiples of {2**times} there: use images of another size, or another config.model"
        )


def blocks(stage_sizes: Sequence[int], widths: Sequence[int]) -> Iterator[tuple[str, int, int]]:
    """Yields name (`layer1_0`, ...), channels and stride of each residual block.

    The stride is 2 in the first block of every stage except the first stage, and otherwise 1.
    """
    for stage, (size, features) in enumerate(zip(stage_sizes, widths, strict=True), start=1):
        for i in range(size):
            yield f"layer{stage}_{i}", features, 2 if stage > 1 and i == 0 else 1


def stages(
    x: jax.Array,
    block: Callable[..., nn.Module],
    stage_sizes: Sequence[int],
    widths: Sequence[int],
    tau: Tau,
    progress: jax.Array | float | None,
    train: bool,
) -> jax.Array:
    """Applies all `blocks` of a residual network. Call it within the network: the blocks become its submodules."""
    for name, features, stride in blocks(stage_sizes, widths):
        x = block(features, stride, name=name)(x, tau, progress, train)
    return x


class LastLinear(nn.Module):
    """Dense layer with weights and bias from U(+-1/sqrt(in_features)), PyTorch's initialization (SPEC.md 6)."""

    features: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        bound = x.shape[-1] ** -0.5

        def init(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        kernel = self.param("kernel", init, (x.shape[-1], self.features), self.param_dtype)
        bias = self.param("bias", init, (self.features,), self.param_dtype)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return x @ kernel + per_channel(bias, x)
