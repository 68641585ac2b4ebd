"""Computes a unit, `hardtanh(batch_norm(alpha * conv(sign(x), sign(w))) + shortcut)`, on CPUs; also without hardtanh.

In training, XLA reads and writes each activation some twenty times between two convolutions. The compiled kernels go
through the activations less often. They need a new pass only after a sum over the batch: after the statistics of the
batch norm, and after the sums in the gradient of the batch norm. The sums of a convolution are integers. They are
stored as int16, and their statistics are exact.

In evaluation, the compiled kernels compute a unit in one pass.
"""

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from recu_jax.ops import native
from recu_jax.ops import packed as ops
from recu_jax.ops.conv import ConvSpec, per_channel
from recu_jax.ops.geometry import Geometry, is_compiled

# Largest number of products that are summed in an output value of the convolution. The compiled kernels add the squares
# of up to 16 output values in int32: at most 16 * 8192**2 = 2**30.
LARGEST_SUM = 8192


def is_served(x: jax.Array, kernel_shape: tuple[int, ...], spec: ConvSpec) -> bool:
    """Tells whether `unit` can convolve x with a kernel of this shape, (*window, in_features / groups, features)."""
    return (
        native.cpu_backend() != "xla"
        and x.dtype == jnp.float32
        and x.size > 0
        and is_compiled(spec)
        and math.prod(kernel_shape[:-1]) <= LARGEST_SUM
    )


def unit(
    x: jax.Array,
    kernel: jax.Array,
    alpha: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    shortcut: jax.Array | Literal["identity"] | None,
    spec: ConvSpec,
    epsilon: float,
    axis_name: str | None,
    clamp: bool = True,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes a unit in training.

    The signs of x have the gradient of `functional.binarize_activations`. The gradient of hardtanh at exactly +1 and -1
    is 0, as in PyTorch.

    Args:
      x: float32, (batch, *spatial, in_features).
      kernel: +1 and -1, (*window, in_features / groups, features), float32.
      alpha: scale of the convolution, (features,), float32.
      scale, bias: of the batch norm, (features,), float32.
      shortcut: (batch, *out_spatial, features), float32; "identity", which is x itself; or None.
      spec: geometry.
      epsilon: number that batch norm adds to the variance.
      axis_name: mapped axis over which the statistics are averaged, or None.
      clamp: whether hardtanh ends the unit.

    Returns:
      The result, (batch, *out_spatial, features), and the mean and the biased variance of `alpha * conv`, (features,),
      which carry no gradient.
    """
    identity = isinstance(shortcut, str)
    array = None if identity else shortcut
    return _unit(x, kernel, alpha, scale, bias, array, spec, identity, epsilon, axis_name, clamp)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8, 9, 10))
def _unit(x, kernel, alpha, scale, bias, shortcut, spec, identity, epsilon, axis_name, clamp):
    return _forward(x, kernel, alpha, scale, bias, shortcut, spec, identity, epsilon, axis_name, clamp)[0]


def _forward(x, kernel, alpha, scale, bias, shortcut, spec, identity, epsilon, axis_name, clamp):
    backend, geometry = native.cpu_backend(), Geometry.of(x, kernel, spec)
    kernel_words = ops.pack_signs_of_kernel(kernel, backend)
    arranged = ops.arrange_kernel(kernel_words, geometry.channels, geometry.groups, backend)
    words, sums, moments = _sums(x, arranged, geometry)
    # One number for each output channel: 0, or NaN if a weight of the channel is NaN. Packed signs cannot hold NaN.
    nan = kernel.sum(tuple(range(kernel.ndim - 1))) * 0
    mean, var = moments[0] + nan, moments[1] + nan
    if axis_name is not None:
        of_all = lax.pmean(mean, axis_name)
        var = lax.pmean(var + (mean - of_all) ** 2, axis_name)
        mean = of_all
    inverse = lax.rsqrt(alpha**2 * var + epsilon)
    added = x if identity else shortcut
    z, inside = _normalize(sums, jnp.stack([mean, alpha * inverse * scale, bias]), added, clamp, backend)
    # The backward pass only needs to know whether `shortcut` was an array. If it was, an empty array stands for it.
    has_shortcut = None if shortcut is None else jnp.zeros(0)
    saved = x, words, sums, inside, kernel, kernel_words, alpha, scale, mean, inverse, has_shortcut
    return (z, alpha * mean, alpha**2 * var), saved


def _backward(spec, identity, epsilon, axis_name, clamp, saved, cotangents):
    x, words, sums, inside, kernel, kernel_words, alpha, scale, mean, inverse, has_shortcut = saved
    dz, backend = cotangents[0], native.cpu_backend()
    geometry = Geometry.of(x, kernel, spec)
    total, product = _gradient_sums(dz, inside, sums, mean, backend)
    dbias, dscale = total, alpha * inverse * product
    count = sums.size // sums.shape[-1]
    mean_dy, mean_product = dbias / count, dscale / count
    if axis_name is not None:
        mean_dy, mean_product = lax.pmean((mean_dy, mean_product), axis_name)
    factor = inverse * scale
    coefficients = jnp.stack([mean, factor, -factor * mean_product * alpha * inverse, -factor * mean_dy])
    dx, dkernel, dshortcut = _gradients(
        x, words, kernel_words, alpha, dz, inside, sums, coefficients,
        geometry, identity, has_shortcut is not None, backend,
    )  # fmt: skip
    dalpha = (dkernel * kernel).sum(tuple(range(kernel.ndim - 1)))
    return dx, dkernel * per_channel(alpha, kernel), dalpha, dscale, dbias, None if has_shortcut is None else dshortcut


_unit.defvjp(_forward, _backward)


def _sums(x: jax.Array, kernel: ops.Kernel, geometry: Geometry) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Packs activations and convolves them with compiled kernels.

    Args:
      x: float32, (batch, *spatial, groups * channels).
      kernel, geometry: as in `packed.conv_sums`; at most `LARGEST_SUM` products per sum.

    Returns:
      The packed activations, uint32, `geometry.input_shape`; the sums, int16, `geometry.output_shape`; mean and biased
      variance of the sums per channel, float32, (2, groups * features). If x holds a NaN, all of these moments are NaN.
    """
    features = geometry.groups * geometry.features
    shapes = (
        jax.ShapeDtypeStruct(geometry.input_shape, jnp.uint32),
        jax.ShapeDtypeStruct(geometry.output_shape, jnp.int16),
        jax.ShapeDtypeStruct((2, features), jnp.float32),
    )
    return ops.call_with_kernel("recu_unit_sums", shapes, geometry, kernel, x)


def unit_in_evaluation(
    x: jax.Array,
    kernel: jax.Array,
    alpha: jax.Array,
    norm: jax.Array,
    shortcut: jax.Array | Literal["identity"] | None,
    spec: ConvSpec,
    clamp: bool = True,
) -> jax.Array:
    """Computes a unit in evaluation, in one pass over the activations. This function has no gradient.

    The roundings are those of the separate layers, as XLA compiles them on processors with FMA. If a sample of x holds
    a NaN, all results of this sample are NaN.

    Args:
      x, kernel, alpha, shortcut, spec, clamp: as in `unit`; one group of channels.
      norm: mean, factor and bias of the batch norm, `(y - mean) * factor + bias`, (3, features), float32.

    Returns:
      float32, (batch, *out_spatial, features).
    """
    backend, geometry = native.cpu_backend(), Geometry.of(x, kernel, spec)
    arranged = ops.arrange_kernel(ops.pack_signs_of_kernel(kernel, backend), geometry.channels, 1, backend)
    nan = kernel.sum(tuple(range(kernel.ndim - 1))) * 0  # as in `_forward`
    identity, added = (True, None) if isinstance(shortcut, str) else (False, shortcut)
    shape = jax.ShapeDtypeStruct(geometry.output_shape, jnp.float32)
    return ops.call_with_kernel(
        "recu_unit_evaluate", shape, geometry, arranged, x,
        ops.padded(jnp.stack([alpha + nan, *norm])), ops.or_empty(added), identity=identity, clamp=clamp,
    )  # fmt: skip


def _normalize(
    sums: jax.Array, coefficients: jax.Array, shortcut: jax.Array | None, clamp: bool, backend: str
) -> tuple[jax.Array, jax.Array]:
    """Computes `hardtanh((sums - mean) * factor + bias + shortcut)`, or the same without hardtanh.

    Args:
      sums: int16, (..., features).
      coefficients: (3, features): mean, factor, bias.
      shortcut: (..., features), or None.
      clamp: whether to compute hardtanh.
      backend: an instruction set.

    Returns:
      The result, and a bit for each of its numbers, uint8: 1 where hardtanh passes a gradient, and everywhere without
      hardtanh. The backward pass reads these bits in place of the result, a 32nd of the bytes.
    """
    shapes = (
        jax.ShapeDtypeStruct(sums.shape, jnp.float32),
        jax.ShapeDtypeStruct((sums.size // 8 + 8,), jnp.uint8),  # BytesOfBits in csrc/unit.h
    )
    return ops.call("recu_unit_normalize", shapes, sums, coefficients, ops.or_empty(shortcut), clamp=clamp, isa=backend)


def _gradient_sums(dz: jax.Array, inside: jax.Array, sums: jax.Array, mean: jax.Array, backend: str) -> jax.Array:
    """Returns the totals of g and of `g * (sums - mean)` per channel, (2, features).

    g is dz where the bit of `inside`, from `_normalize`, is 1, and 0 elsewhere.
    """
    shape = jax.ShapeDtypeStruct((2, sums.shape[-1]), jnp.float32)
    return ops.call("recu_unit_gradient_sums", shape, dz, inside, sums, mean, isa=backend)


def _gradients(
    x: jax.Array,
    words: jax.Array,
    kernel: jax.Array,
    alpha: jax.Array,
    dz: jax.Array,
    inside: jax.Array,
    sums: jax.Array,
    coefficients: jax.Array,
    geometry: Geometry,
    identity: bool,
    has_shortcut: bool,
    backend: str,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes the gradients of a unit with respect to its input, its kernel and its shortcut.

    Args:
      x, words, sums: argument and results of `_sums`.
      kernel: as in `packed.input_gradient`.
      alpha: (features,).
      dz, inside: as in `_gradient_sums`, which also defines g.
      coefficients: (4, features). The gradient of the scaled convolution is
        `g * coefficients[1] + (sums - coefficients[0]) * coefficients[2] + coefficients[3]`.
      geometry, backend: as in `packed.kernel_gradient`.
      identity: whether the shortcut is x. The gradient of the shortcut is then added to the gradient of x.
      has_shortcut: whether the gradient of a shortcut is wanted.

    Returns:
      The gradients of x, of the kernel without the factor alpha, and of the shortcut (empty if it is not wanted).
    """
    features = geometry.groups * geometry.features
    shapes = (
        jax.ShapeDtypeStruct(x.shape, jnp.float32),
        jax.ShapeDtypeStruct((*geometry.window, geometry.channels, features), jnp.float32),
        jax.ShapeDtypeStruct(sums.shape if has_shortcut else (0,), jnp.float32),
    )
    return ops.call(
        "recu_unit_gradients", shapes, x, words, kernel, alpha, dz, inside, sums, coefficients,
        geometry=geometry.numbers(), identity=identity, isa=backend,
    )  # fmt: skip
