"""Convolves signs, with one scale per output channel and a hand-written backward pass.

If `x` and `kernel` are signs, and compiled CPU kernels support the convolution, the forward pass counts bits, which
gives the exact sums. In float32 the backward pass computes the gradients of `x` and `kernel` from the bits, which take
1/32 of the memory of floats.

Otherwise the forward pass is `lax.conv_general_dilated`. The backward pass is hand-written for speed on CPUs. XLA's
CPU compiler would fuse the operations before the convolution (normalization, sign) into the layout change that the
kernel gradient needs. It would then recompute them with strided access, which took 60% of a train step. An
`optimization_barrier` on the saved arrays prevents this.

The kernel gradient can also be computed as matrix products over patches. These need no layout change by XLA, but were
slower: a `cifar_resnet20` step took 2.2 s instead of 2.0 s on jax 0.10.1, and 1.8 s instead of 1.3 s on 0.12.

The gradient of alpha needs no output of the convolution, because `conv(x, k)` is linear in `k`. Let `K` be the gradient
of `sum(dy * conv(x, k))` with respect to `k`. The gradient of alpha is the sum of `K * k` over each output channel.

Second derivatives (Hessian-vector products, gradient penalties) are computed by XLA's convolution. They need `x`, so
the backward pass takes `x` too. A first derivative from bits does not read `x`, and XLA then does not keep it.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from recu_jax.ops import packed as ops
from recu_jax.ops.by_platform import compiled_or_xla
from recu_jax.ops.conv import ConvSpec, convolve, match_varying_axes, per_channel
from recu_jax.ops.geometry import Geometry, is_compiled
from recu_jax.ops.packing import word_count
from recu_jax.ops.partitioned import over_batch
from recu_jax.ops.reverse_mode import reverse_mode


@reverse_mode
def scaled_conv(
    x: jax.Array, kernel: jax.Array, alpha: jax.Array | None, spec: ConvSpec, signs: bool = False
) -> jax.Array:
    """Computes `alpha * conv(x, kernel)`.

    Args:
      x: (batch, *spatial, in_features).
      kernel: (*window, in_features / groups, features), in the dtype of `x`.
      alpha: scale, (features,), or None.
      spec: geometry.
      signs: whether `x` and `kernel` hold only +1 and -1.

    Returns:
      (batch, *out_spatial, features) in the dtype of `x`.
    """
    return _scaled_conv(x, kernel, alpha, spec, signs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _scaled_conv(x, kernel, alpha, spec, signs):
    return _forward(x, kernel, alpha, spec, signs)[0]


def _forward(x, kernel, alpha, spec, signs):
    if not (signs and is_compiled(spec)):
        y, words = convolve(x, kernel, spec), None
    else:
        words = compiled_or_xla(
            lax.stop_gradient(x), compiled=functools.partial(pack_batch, spec), xla=functools.partial(_no_words, spec)
        )
        y = compiled_or_xla(
            words, x, kernel,
            compiled=functools.partial(_counted, spec), xla=lambda words, x, kernel: convolve(x, kernel, spec),
        )  # fmt: skip
        words = words if x.dtype == jnp.float32 else None
    return y if alpha is None else y * per_channel(alpha, y), (words, x, kernel, alpha)


def pack_batch(spec: ConvSpec, backend: str, x: jax.Array) -> jax.Array:
    """Packs the signs x, (batch, *spatial, in_features). Each device packs its part of the batch."""
    return over_batch(lambda x: ops.pack(x, spec.feature_group_count, backend), x, batched=[True])


def _no_words(spec, x):
    """Returns zeros in place of the words for programs in which XLA convolves. Nothing reads them."""
    groups = spec.feature_group_count
    words = jnp.zeros((*x.shape[:-1], groups * word_count(x.shape[-1] // groups)), jnp.uint32)
    return match_varying_axes(words, x)[0]


def _counted(spec, backend, words, x, kernel):
    """Convolves the signs `x`, which are packed in `words`, with the signs `kernel`, by counting bits."""
    kernel_words = ops.pack_signs_of_kernel(kernel, backend)
    arranged = ops.arrange_kernel(kernel_words, kernel.shape[-2], spec.feature_group_count, backend)
    return count_bits(words, arranged, x, kernel, spec).astype(x.dtype) + _nan_marks(x, kernel)


def count_bits(
    words: jax.Array, arranged: ops.Kernel, x: jax.Array, kernel: jax.Array | jax.ShapeDtypeStruct, spec: ConvSpec
) -> jax.Array:
    """Convolves packed signs with a packed kernel. Each device convolves its part of the batch.

    Args:
      words: the result of `pack_batch`.
      arranged: the kernel in the layout of a compiled backend.
      x, kernel: the arrays that were packed; only their shapes are used.
      spec: geometry.

    Returns:
      Exact sums, int32, (batch, *out_spatial, features).
    """
    geometry = Geometry.of(x, kernel, spec)

    def sums(words, *arrays):
        part = dataclasses.replace(geometry, batch=words.shape[0])
        return ops.conv_sums(words, ops.Kernel(arrays, arranged.backend), part)

    return over_batch(sums, words, *arranged.arrays, batched=[True, False, False])


def _nan_marks(x, kernel):
    """Returns NaN where a sample of `x` or an output channel of `kernel` holds a NaN, and 0 elsewhere.

    The result broadcasts to the output of the convolution. It is added to the output, because bits cannot hold a NaN.
    Products with zeros find the NaN, because 0 times NaN is NaN. On the CPU a product reads an array faster than a
    reduction.
    """
    columns = kernel.reshape(-1, kernel.shape[-1])
    of_channels = lax.optimization_barrier(jnp.zeros(columns.shape[0], x.dtype)) @ columns
    return lax.expand_dims(nan_of_samples(x), range(1, x.ndim)) + per_channel(of_channels, x)


def nan_of_samples(x: jax.Array) -> jax.Array:
    """Returns NaN for each sample of `x` that holds a NaN, and 0 for the others: (batch,). `x` holds no infinity.

    The zeros are as long as the last two axes of `x`. For a batch of one, zeros as long as a sample take longer to
    write than `x` takes to read: 97 us instead of 17 us for (1, 56, 56, 64).
    """
    length = math.prod(x.shape[1:][-2:])
    zeros = lax.optimization_barrier(jnp.zeros(length, x.dtype))
    rows = x.reshape(x.shape[0], math.prod(x.shape[1:-2]), length)
    return (rows @ zeros).sum(1)


def _backward(spec, signs, saved, dy):
    words, x, kernel, alpha = saved
    if words is None:
        dx, dkernel = _gradients_of_floats(spec, words, x, kernel, alpha, dy)
    else:
        dx, dkernel = compiled_or_xla(
            words, x, kernel, alpha, dy,
            compiled=functools.partial(_gradients_of_bits, spec), xla=functools.partial(_gradients_of_floats, spec),
        )  # fmt: skip
    if alpha is None:
        return dx, dkernel, None
    # Thousands of products may be summed. `dkernel` may be bfloat16, which is too coarse for the sums. So they are
    # computed in the dtype of alpha, which is usually float32.
    products = dkernel.astype(alpha.dtype) * kernel.astype(alpha.dtype)
    dalpha = products.sum(axis=tuple(range(kernel.ndim - 1)))
    return dx, dkernel * per_channel(alpha, kernel), dalpha


_scaled_conv.defvjp(_forward, _backward)


def _gradients_of_floats(spec, words, x, kernel, alpha, dy):
    """Returns two gradients.

    The first is that of `sum(dy * alpha * conv(x, kernel))` with respect to x. The second is that of the same sum
    without alpha, with respect to the kernel.
    """
    x, kernel, alpha, dy = lax.optimization_barrier((x, kernel, alpha, dy))
    scaled_kernel = kernel if alpha is None else kernel * per_channel(alpha, kernel)
    (dx,) = jax.linear_transpose(lambda x: convolve(x, scaled_kernel, spec), x)(dy)
    (dkernel,) = jax.linear_transpose(lambda k: convolve(x, k, spec), kernel)(dy)
    return dx, dkernel


def _gradients_of_bits(spec, backend, words, x, kernel, alpha, dy):
    """Computes the results of `_gradients_of_floats` from `words`, which hold the signs `x`."""
    geometry = Geometry.of(x, kernel, spec)
    words, kernel, alpha, dy = lax.optimization_barrier((words, kernel, alpha, dy))

    def of_input(dy, kernel, *alpha):
        part = dataclasses.replace(geometry, batch=dy.shape[0])
        return ops.input_gradient(kernel, alpha[0] if alpha else None, dy, part, backend)

    def of_kernel(words, dy):
        return ops.kernel_gradient(words, dy, dataclasses.replace(geometry, batch=dy.shape[0]), backend)

    scale = () if alpha is None else (alpha.astype(dy.dtype),)
    arguments = (dy, ops.pack_signs_of_kernel(kernel, backend), *scale)
    dx = over_batch(of_input, *arguments, batched=[True] + [False] * (len(arguments) - 1))
    return dx, over_batch(of_kernel, words, dy, batched=[True, True], summed=True)
