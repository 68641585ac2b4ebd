"""Convolution of signs with one scale per output channel, its backward pass written out.

Where both sides are signs and the compiled kernels are there (`recu_jax.bits`), the forward pass counts bits: the same
sums, exactly. In float32 the backward pass keeps the bits, a 32nd of the memory, and takes both gradients from them.

Elsewhere it is `lax.conv_general_dilated`, whose backward pass is written out because XLA's CPU compiler fuses whatever
produced the activations (normalisation, sign) into the layout change that the kernel gradient needs and recomputes it
with strided access: 60% of a train step. An `optimization_barrier` on the saved arrays stops that. (The kernel gradient
as matrix products over patches, which XLA then does not have to lay out anew, was slower: 2.2 s a `cifar_resnet20` step
against 2.0 s on jax 0.10.1, 1.8 s against 1.3 s on 0.12.)

With `y = alpha * conv(x, k)` linear in `k`, the gradient of alpha is a sum over the kernel gradient,
`d alpha_c = sum_k K_c * k_c` with `K = dconv/dk(x, dy)`: the convolution's output is neither kept nor read again.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from recu_jax.bits import native, ops
from recu_jax.bits.geometry import COMPILED_DIMENSIONS, Geometry
from recu_jax.conv import ConvSpec, convolve, per_channel


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def scaled_conv(
    x: jax.Array, kernel: jax.Array, alpha: jax.Array | None, spec: ConvSpec, signs: bool = False
) -> jax.Array:
    """`alpha * conv(x, kernel)`.

    Args:
      x: (batch, *spatial, in_features).
      kernel: (*window, in_features / groups, features), dtype of `x`.
      alpha: (features,) or None for no scale.
      spec: geometry.
      signs: whether `x` and `kernel` hold nothing but +1 and -1.

    Returns:
      (batch, *out_spatial, features) in the dtype of `x`.
    """
    return _forward(x, kernel, alpha, spec, signs)[0]


def _forward(x, kernel, alpha, spec, signs):
    backend = _backend(spec, signs)
    if backend == "xla":
        y, kept = convolve(x, kernel, spec), x
    else:
        geometry, groups = _geometry(x.shape, kernel, spec), spec.feature_group_count
        words, kernel_words = ops.pack(x, groups, backend), _pack_kernel(kernel, backend)
        y = ops.conv_sums(words, ops.arrange_kernel(kernel_words, geometry.channels, groups, backend), geometry)
        y, kept = y.astype(x.dtype), words if x.dtype == jnp.float32 else x
    return y if alpha is None else y * per_channel(alpha, y), (kept, kernel, alpha)


def _backward(spec, signs, saved, dy):
    (x, kernel, alpha), dy = lax.optimization_barrier((saved, dy))
    if x.dtype == jnp.uint32:
        backend, shape = _backend(spec, signs), (*x.shape[:-1], kernel.shape[-2] * spec.feature_group_count)
        geometry = _geometry(shape, kernel, spec)
        dx = ops.input_gradient(_pack_kernel(kernel, backend), alpha, dy, geometry, backend)
        dkernel = ops.kernel_gradient(x, dy, geometry, backend)
    else:
        scaled_kernel = kernel if alpha is None else kernel * per_channel(alpha, kernel)
        (dx,) = jax.linear_transpose(lambda x: convolve(x, scaled_kernel, spec), x)(dy)
        (dkernel,) = jax.linear_transpose(lambda k: convolve(x, k, spec), kernel)(dy)
    if alpha is None:
        return dx, dkernel, None
    # Sums of up to thousands of products: not in bfloat16.
    products = dkernel.astype(alpha.dtype) * kernel.astype(alpha.dtype)
    dalpha = products.sum(axis=tuple(range(kernel.ndim - 1)))
    return dx, dkernel * per_channel(alpha, kernel), dalpha


scaled_conv.defvjp(_forward, _backward)


def _backend(spec, signs):
    return native.default_backend() if signs and len(spec.strides) <= COMPILED_DIMENSIONS else "xla"


def _geometry(shape, kernel, spec):
    *window, _, features = kernel.shape
    return Geometry.create(
        shape[0], shape[1:-1], window, shape[-1], features, spec.strides, spec.padding, spec.kernel_dilation,
        spec.feature_group_count,
    )  # fmt: skip


def _pack_kernel(kernel, backend):
    """(features, *window, words)."""
    return ops.pack(jnp.moveaxis(kernel, -1, 0), 1, backend)
