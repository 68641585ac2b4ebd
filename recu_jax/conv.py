"""Convolution of signs with one scale per output channel, and a backward pass that XLA compiles well.

The forward pass is `lax.conv_general_dilated`. The backward pass is written out for two reasons:

- XLA's CPU compiler fuses whatever produced the activations (normalisation, sign) into the layout change that the
  kernel gradient needs and recomputes it with strided access: 60% of a train step. An `optimization_barrier` on
  the saved arrays stops that.
  (The kernel gradient as matrix products over patches, which XLA then does not have to lay out anew, was slower:
  2.2 s a `cifar_resnet20` step against 2.0 s on jax 0.10.1, 1.8 s against 1.3 s on 0.12.)
- With `y = alpha * conv(x, k)` linear in `k`, the gradient of alpha is a sum over the kernel gradient,
  `d alpha_c = sum_k K_c * k_c` with `K = dconv/dk(x, dy)`. The convolution's output is neither kept nor
  read again.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recu_jax.errors import UserError

PaddingLike = str | int | Sequence[int | tuple[int, int]]
# Paddings that lax does not know, and what jnp.pad calls them.
_PAD_MODES = {"CIRCULAR": "wrap", "REFLECT": "reflect"}


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

        steps, dilation = each(strides), each(kernel_dilation)
        pads: Any = padding
        if not isinstance(padding, str):
            each_side = (padding,) * len(window) if isinstance(padding, int) else padding
            pads = tuple((p, p) if isinstance(p, int) else (p[0], p[1]) for p in each_side)
        elif padding == "CAUSAL" and len(window) == 1:
            pads = (((window[0] - 1) * dilation[0], 0),)
        elif padding not in ("SAME", "VALID", *_PAD_MODES):
            raise UserError(
                f"padding is {padding!r} for a {len(window)}-D convolution; it must be 'SAME', 'VALID', 'CIRCULAR', "
                "'REFLECT', 'CAUSAL' (1-D only), or ints"
            )
        return cls(steps, pads, dilation, feature_group_count)

    @property
    def dimension_numbers(self) -> lax.ConvDimensionNumbers:
        spatial = tuple(range(1, 1 + len(self.strides)))
        last = len(self.strides) + 1
        image = (0, last, *spatial)
        return lax.ConvDimensionNumbers(image, (last, last - 1, *(i - 1 for i in spatial)), image)


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
    (dkernel,) = jax.linear_transpose(lambda k: _conv(x, k, spec), kernel)(dy)
    if alpha is None:
        return dx, dkernel, None
    # Sums of up to thousands of products: not in bfloat16.
    products = dkernel.astype(alpha.dtype) * kernel.astype(alpha.dtype)
    dalpha = products.sum(axis=tuple(range(kernel.ndim - 1)))
    return dx, dkernel * per_channel(alpha, kernel), dalpha


scaled_conv.defvjp(_scaled_conv_fwd, _scaled_conv_bwd)
