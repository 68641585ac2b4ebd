"""Converts the arguments of `nn.Conv` to XLA's geometry of a convolution, channels last."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recu_jax.errors import UserError

PaddingLike = str | int | Sequence[int | tuple[int, int]]
# Paddings that lax does not have, and their names in jnp.pad.
_PAD_MODES = {"CIRCULAR": "wrap", "REFLECT": "reflect"}


@dataclasses.dataclass(frozen=True)
class ConvSpec:
    """Geometry of a convolution with `len(strides)` spatial dimensions, channels last.

    Attributes:
      strides: one per spatial dimension.
      padding: `"SAME"`, `"SAME_LOWER"`, `"VALID"`, `"CIRCULAR"`, `"REFLECT"`, or (low, high) for each spatial
        dimension. A negative number crops.
      kernel_dilation: one per spatial dimension.
      feature_group_count: groups of channels that are convolved separately.
      input_dilation: one per spatial dimension; None if the input is not dilated.
      precision: `jax.lax.Precision` of XLA's products. The compiled kernels ignore it, because they count bits.
    """

    strides: tuple[int, ...]
    padding: str | tuple[tuple[int, int], ...]
    kernel_dilation: tuple[int, ...]
    feature_group_count: int = 1
    input_dilation: tuple[int, ...] | None = None
    precision: Any = None

    @classmethod
    def create(
        cls,
        window: Sequence[int],
        strides: int | Sequence[int] | None,
        padding: PaddingLike,
        kernel_dilation: int | Sequence[int] | None,
        feature_group_count: int,
        input_dilation: int | Sequence[int] | None = 1,
        precision: Any = None,
    ) -> "ConvSpec":
        """Converts the forms that `nn.Conv` accepts to one number per spatial dimension. Strings may have any case.

        Raises:
          UserError: the padding is unknown, or it is `"SAME"` or `"SAME_LOWER"` with an input dilation.
        """

        def each(value):
            return (value or 1,) * len(window) if value is None or isinstance(value, int) else tuple(value)

        steps, dilation, dilated = each(strides), each(kernel_dilation), each(input_dilation)
        pads: Any = padding.upper() if isinstance(padding, str) else padding
        if pads == "CAUSAL" and len(window) == 1:
            pads = (((window[0] - 1) * dilation[0], 0),)
        elif pads not in ("SAME", "SAME_LOWER", "VALID", *_PAD_MODES):
            pads = _pairs(pads, len(window))
        elif pads == "VALID":  # in numbers, because lax accepts no names with a dilated input
            pads = ((0, 0),) * len(window)
        inner = dilated if any(d != 1 for d in dilated) else None
        if inner and pads in ("SAME", "SAME_LOWER"):
            raise UserError(
                f"padding is {padding!r} and input_dilation is {input_dilation}; with an input_dilation give the "
                "padding in numbers: an int, or (low, high) per dimension"
            )
        return cls(steps, pads, dilation, feature_group_count, inner, precision)

    @property
    def dimension_numbers(self) -> lax.ConvDimensionNumbers:
        spatial = tuple(range(1, 1 + len(self.strides)))
        last = len(self.strides) + 1
        image = (0, last, *spatial)
        return lax.ConvDimensionNumbers(image, (last, last - 1, *(i - 1 for i in spatial)), image)


def check_groups(in_features: int, features: int, groups: int) -> None:
    """Raises UserError if the channels do not divide into `groups`."""
    if in_features % groups or features % groups:
        raise UserError(
            f"feature_group_count is {groups}; it must divide both the {in_features} input and the {features} output "
            "channels"
        )


def _pairs(padding: PaddingLike, dimensions: int) -> tuple[tuple[int, int], ...]:
    """Returns (low, high) for each dimension, from an int, or one int or (low, high) per dimension."""
    each: Any = (padding,) * dimensions if isinstance(padding, int) else padding
    if not isinstance(each, str) and isinstance(each, Sequence) and len(each) == dimensions:
        pairs = tuple((p, p) if isinstance(p, int) else p for p in each)
        if all(isinstance(p, Sequence) and len(p) == 2 and all(isinstance(n, int) for n in p) for p in pairs):
            return tuple(tuple(p) for p in pairs)
    raise UserError(
        f"padding is {padding!r} for a {dimensions}-D convolution; it must be 'SAME', 'SAME_LOWER', 'VALID', "
        "'CIRCULAR', 'REFLECT', 'CAUSAL' (1-D only), an int, or one int or (low, high) per dimension"
    )


def per_channel(values: jax.Array, like: jax.Array) -> jax.Array:
    """Casts `values`, (channels,), to the dtype and rank of `like`, so that they broadcast along its last axis."""
    return lax.expand_dims(values.astype(like.dtype), range(like.ndim - 1))


def convolve(x: jax.Array, kernel: jax.Array, spec: ConvSpec) -> jax.Array:
    """Calls `lax.conv_general_dilated` with the geometry of `spec`."""
    return lax.conv_general_dilated(
        x,
        kernel,
        spec.strides,
        spec.padding,
        lhs_dilation=spec.input_dilation,
        rhs_dilation=spec.kernel_dilation,
        dimension_numbers=spec.dimension_numbers,
        feature_group_count=spec.feature_group_count,
        precision=spec.precision,
    )


def wrap_padding(x: jax.Array, window: Sequence[int], spec: ConvSpec) -> tuple[jax.Array, ConvSpec]:
    """Pads x if the padding is `"CIRCULAR"` or `"REFLECT"`.

    Returns x and the spec. If x was padded, the returned spec has no padding.
    """
    if spec.padding not in _PAD_MODES:
        return x, spec
    spans = [(k - 1) * d for k, d in zip(window, spec.kernel_dilation, strict=True)]
    pads = [(s // 2, s - s // 2) for s in spans]
    x = jnp.pad(x, [(0, 0), *pads, (0, 0)], mode=_PAD_MODES[spec.padding])
    return x, dataclasses.replace(spec, padding=((0, 0),) * len(window))


def _varying_axes(x: jax.Array) -> frozenset[str]:
    kind = jax.typeof(x)
    kind = getattr(kind, "manual_axis_type", kind)  # in newer versions of JAX
    return getattr(kind, "varying", None) or getattr(kind, "vma", None) or frozenset()


def match_varying_axes(*arrays: jax.Array | None) -> list[jax.Array | None]:
    """Within `jax.shard_map`, makes all arrays vary over each mesh axis over which one of them varies.

    The transpose of this operation sums the gradient of a shared kernel over the devices. JAX inserts the operation for
    its own functions. For a `custom_vjp` JAX 0.12 inserts it, but 0.10 and older versions do not.
    """
    axes = frozenset().union(*(_varying_axes(x) for x in arrays if x is not None))

    def cast(x):
        missing = () if x is None else tuple(sorted(axes - _varying_axes(x)))
        if not missing:
            return x
        return lax.pcast(x, missing, to="varying") if hasattr(lax, "pcast") else lax.pvary(x, missing)  # type: ignore[attr-defined]

    return [cast(x) for x in arrays]
