"""Convolution of signs with one scale per output channel, and a backward pass that XLA compiles well.

The forward pass is `lax.conv_general_dilated`. The backward pass is written out for two reasons:

- XLA's CPU compiler fuses whatever produced the activations (normalisation, sign) into the layout change that the
  kernel gradient needs and recomputes it with strided access: 60% of a train step. An `optimization_barrier` on
  the saved arrays stops that.
- With `y = alpha * conv(x, k)` linear in `k`, the gradient of alpha is a sum over the kernel gradient,
  `d alpha_c = sum_k K_c * k_c` with `K = kernel_gradient(x, dy)`. The convolution's output is neither kept nor
  read again.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from recu_jax import backend
from recu_jax.errors import UserError

PaddingLike = str | int | Sequence[int | tuple[int, int]]
# Paddings that lax does not know, and what jnp.pad calls them.
_PAD_MODES = {"CIRCULAR": "wrap", "REFLECT": "reflect"}
# Patches of this many images at a time: the buffer stays in the cache.
_IMAGES_PER_DOT = 16


@dataclasses.dataclass(frozen=True)
class ConvSpec:
    """Geometry of a convolution with `len(strides)` spatial dimensions, channels last.

    Attributes:
      strides: one per spatial dimension.
      padding: `"SAME"`, `"VALID"`, `"CIRCULAR"`, `"REFLECT"`, or (low, high) for each spatial dimension.
      kernel_dilation: one per spatial dimension.
      feature_group_count: groups of channels that do not see each other.
    """

    strides: tuple[int, ...]
    padding: str | tuple[tuple[int, int], ...]
    kernel_dilation: tuple[int, ...]
    feature_group_count: int = 1

    @classmethod
    def create(
        cls,
        window: Sequence[int],
        strides: int | Sequence[int] | None,
        padding: PaddingLike,
        kernel_dilation: int | Sequence[int] | None,
        feature_group_count: int,
    ) -> "ConvSpec":
        """Fills in one number per spatial dimension from the forms that `nn.Conv` takes.

        Raises:
          UserError: a padding that `nn.Conv` would not know either.
        """

        def each(value):
            return (value or 1,) * len(window) if value is None or isinstance(value, int) else tuple(value)

        strides, kernel_dilation = each(strides), each(kernel_dilation)
        if not isinstance(padding, str):
            padding = (padding,) * len(window) if isinstance(padding, int) else padding
            padding = tuple((p, p) if isinstance(p, int) else tuple(p) for p in padding)
        elif padding == "CAUSAL" and len(window) == 1:
            padding = (((window[0] - 1) * kernel_dilation[0], 0),)
        elif padding not in ("SAME", "VALID", *_PAD_MODES):
            raise UserError(
                f"padding is {padding!r} for a {len(window)}-D convolution; it must be 'SAME', 'VALID', 'CIRCULAR', "
                "'REFLECT', 'CAUSAL' (1-D only), or ints"
            )
        return cls(strides, padding, kernel_dilation, feature_group_count)

    @property
    def dimension_numbers(self) -> lax.ConvDimensionNumbers:
        spatial = tuple(range(1, 1 + len(self.strides)))
        last = len(self.strides) + 1
        image = (0, last, *spatial)
        return lax.ConvDimensionNumbers(image, (last, last - 1, *(i - 1 for i in spatial)), image)

    def explicit_padding(self, in_shape: Sequence[int], kernel_shape: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """(low, high) padding of each spatial dimension, for spatial shapes of input and kernel."""
        if not isinstance(self.padding, str):
            return self.padding
        dilated = [(k - 1) * d + 1 for k, d in zip(kernel_shape, self.kernel_dilation, strict=True)]
        return tuple(lax.padtype_to_pads(in_shape, dilated, self.strides, self.padding))


def per_channel(values: jax.Array, like: jax.Array) -> jax.Array:
    """`values` (channels,) in the dtype and rank of `like`, to be broadcast over all but its last axis."""
    return lax.expand_dims(values.astype(like.dtype), range(like.ndim - 1))


def _conv(x: jax.Array, kernel: jax.Array, spec: ConvSpec) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        spec.strides,
        spec.padding,
        rhs_dilation=spec.kernel_dilation,
        dimension_numbers=spec.dimension_numbers,
        feature_group_count=spec.feature_group_count,
    )


def wrap_padding(x: jax.Array, window: Sequence[int], spec: ConvSpec) -> tuple[jax.Array, ConvSpec]:
    """Carries out a `"CIRCULAR"` or `"REFLECT"` padding; the spec that comes back has none left of these."""
    if spec.padding not in _PAD_MODES:
        return x, spec
    spans = [(k - 1) * d for k, d in zip(window, spec.kernel_dilation, strict=True)]
    pads = [(s // 2, s - s // 2) for s in spans]
    x = jnp.pad(x, [(0, 0), *pads, (0, 0)], mode=_PAD_MODES[spec.padding])
    return x, dataclasses.replace(spec, padding="VALID")


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def scaled_conv(x: jax.Array, kernel: jax.Array, alpha: jax.Array | None, spec: ConvSpec) -> jax.Array:
    """`alpha * conv(x, kernel)`.

    Args:
      x: (batch, *spatial, in_features).
      kernel: (*window, in_features / groups, features), dtype of `x`.
      alpha: (features,) or None for no scale.
      spec: geometry.

    Returns:
      (batch, *out_spatial, features) in the dtype of `x`.
    """
    y = _conv(x, kernel, spec)
    return y if alpha is None else y * per_channel(alpha, y)


def _scaled_conv_fwd(x, kernel, alpha, spec):
    return scaled_conv(x, kernel, alpha, spec), (x, kernel, alpha)


def _scaled_conv_bwd(spec, saved, dy):
    (x, kernel, alpha), dy = lax.optimization_barrier((saved, dy))
    scaled_kernel = kernel if alpha is None else kernel * per_channel(alpha, kernel)
    (dx,) = jax.linear_transpose(lambda x: _conv(x, scaled_kernel, spec), x)(dy)
    dkernel = _kernel_gradient(x, dy, kernel, spec)
    if alpha is None:
        return dx, dkernel, None
    # Sums of up to thousands of products: not in bfloat16.
    products = dkernel.astype(alpha.dtype) * kernel.astype(alpha.dtype)
    dalpha = products.sum(axis=tuple(range(kernel.ndim - 1)))
    return dx, dkernel * per_channel(alpha, kernel), dalpha


scaled_conv.defvjp(_scaled_conv_fwd, _scaled_conv_bwd)


def _kernel_gradient(x, dy, kernel, spec):
    if backend.kernel_gradient_by_dots() and x.ndim == 4 and spec.feature_group_count == 1:
        return _kernel_gradient_by_dots(x, dy, kernel, spec)
    (dkernel,) = jax.linear_transpose(lambda k: _conv(x, k, spec), kernel)(dy)
    return dkernel


def _kernel_gradient_by_dots(x, dy, kernel, spec):
    """Kernel gradient of a 2-D convolution as products of input patches with output gradients."""
    height, width, _, features = kernel.shape
    x = jnp.pad(x, ((0, 0), *spec.explicit_padding(x.shape[1:3], kernel.shape[:2]), (0, 0)))
    out_h, out_w = dy.shape[1:3]

    def window(images, row, column):
        (stride_h, stride_w), (dilation_h, dilation_w) = spec.strides, spec.kernel_dilation
        top, left = row * dilation_h, column * dilation_w
        rows = slice(top, top + (out_h - 1) * stride_h + 1, stride_h)
        return images[:, rows, left : left + (out_w - 1) * stride_w + 1 : stride_w]

    def product(images, gradients):
        patches = jnp.concatenate([window(images, i, j) for i in range(height) for j in range(width)], axis=-1)
        patches = patches.reshape(-1, patches.shape[-1])
        return patches.T @ gradients.reshape(-1, features)

    batch = x.shape[0]
    whole = batch - batch % _IMAGES_PER_DOT
    total = jnp.zeros((height * width * x.shape[-1], features), dy.dtype)
    if whole:
        chunks = [a[:whole].reshape(-1, _IMAGES_PER_DOT, *a.shape[1:]) for a in (x, dy)]
        total, _ = lax.scan(lambda sum_, chunk: (sum_ + product(*chunk), None), total, tuple(chunks))
    if whole < batch:
        total = total + product(x[whole:], dy[whole:])
    return total.reshape(kernel.shape)
