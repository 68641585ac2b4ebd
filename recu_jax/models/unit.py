"""Computes a 1-bit convolution, its batch norm, the shortcut and the nonlinearity as one unit of a model.

With the convolution of `conv_of_units(conv, fused=True)`, a model computes its units by the compiled kernels of
`recu_jax.ops.unit`. The variables stay the same, and the results stay the same up to rounding.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from recu_jax.binarizers import activations
from recu_jax.layers import BinaryConv, Tau
from recu_jax.models.batch_norm import EPSILON
from recu_jax.models.parts import hard_tanh
from recu_jax.ops import unit as ops
from recu_jax.ops.bit_kernel import BitKernel
from recu_jax.ops.by_platform import by_platform
from recu_jax.ops.conv import ConvSpec


class UnitConv(BinaryConv):
    """A `BinaryConv` that can compute the whole unit.

    Attributes:
      finish: function of the input, the signs of the kernel, and alpha. It computes the whole unit in place of the
        convolution. With None the layer only convolves.
    """

    finish: Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array] | None = None

    def _convolved(self, x, weights, alpha, offset, progress, train):
        if self.finish is not None:
            return self.finish(x, weights, alpha)
        return super()._convolved(x, weights, alpha, offset, progress, train)


def conv_of_units(conv: Callable[..., nn.Module], fused: bool) -> Callable[..., nn.Module]:
    """Returns `conv`, with `UnitConv` in place of `BinaryConv` if `fused`. `conv` may be a `functools.partial`."""
    if not fused:
        return conv
    if conv is BinaryConv:
        return UnitConv
    if isinstance(conv, partial) and conv.func is BinaryConv:
        return partial(UnitConv, *conv.args, **conv.keywords)
    return conv


def fused(model: nn.Module) -> nn.Module:
    """Returns the model with `fused=True`, or the model itself if it has no field `fused`."""
    return model.clone(fused=True) if hasattr(model, "fused") else model


def unit(
    x: jax.Array,
    conv: Callable[..., nn.Module],
    norm: Callable[..., nn.Module],
    nonlinear: Callable[[jax.Array, str], jax.Array],
    number: int,
    shortcut: jax.Array | None = None,
    *,
    tau: Tau,
    progress: jax.Array | float | None,
    train: bool,
) -> jax.Array:
    """Computes `nonlinear(norm(conv(x)) + shortcut)`. Call it within a model: the layers become its submodules.

    Args:
      x: (batch, height, width, channels).
      conv, norm: factories of the modules `conv{number}` and `bn{number}`.
      nonlinear: function of an array and the name `nonlinear{number}`.
      number: number of the unit in the block or model.
      shortcut: an array of the result's shape, or None; it may be `x`.
      tau, progress, train: as in `BinaryConv`.
    """
    batch_norm, name = norm(name=f"bn{number}"), f"conv{number}"
    spec, clamp = _fused_spec(conv, batch_norm, x), nonlinear is hard_tanh
    served = spec is not None and (train or spec.feature_group_count == 1)
    if served:
        added = "identity" if shortcut is x else shortcut
        conv = partial(conv, finish=partial(_finish, batch_norm, spec, added, clamp, train))
    y = conv(name=name)(x, tau=tau, progress=progress, train=train)
    if served and clamp:
        return y
    if not served:
        y = batch_norm(y, use_running_average=not train)
        y = y if shortcut is None else y + shortcut
    return _computed_once(nonlinear(y, f"nonlinear{number}"))


def _computed_once(x):
    """Returns x, and keeps XLA's CPU compiler from computing it again in each operation that uses it.

    The compiler fuses elementwise operations into all that read their results. The shortcuts lead from unit to unit, so
    the last units would compute those before them again. Without the compiled kernels, a train step of `cifar_resnet20`
    with RPReLU took 1.8 times as long with jax 0.12. XLA of jax 0.10 drops the barrier before it fuses.
    """
    return by_platform(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)


def _fused_spec(conv, batch_norm, x):
    """Returns the geometry of the convolution, or None if the compiled kernels cannot compute this unit."""
    if batch_norm.is_initializing() or not isinstance(conv, partial) or conv.func is not UnitConv:
        return None
    layer = conv(parent=None)  # bound to no model; only its fields are read
    spec = ConvSpec.create(
        layer.kernel_size, layer.strides, layer.padding, layer.kernel_dilation, layer.feature_group_count,
        layer.input_dilation, layer.precision,
    )  # fmt: skip
    types = {jnp.dtype(t) for t in (x.dtype, layer.param_dtype, layer.dtype or x.dtype, batch_norm.param_dtype)}
    fits = (
        layer.input_binarizer == activations.ReCU()
        and layer.binary_weights
        and not layer.kernel_binarizer.shifted
        and not layer.use_bias
        and layer.preferred_element_type is None
        and types == {jnp.dtype(jnp.float32)}
        and ops.is_served(x, (*layer.kernel_size, x.shape[-1] // layer.feature_group_count, layer.features), spec)
    )
    return spec if fits else None


def _finish(batch_norm, spec, shortcut, clamp, train, x, kernel, alpha):
    """Computes the unit from its input, the signs of its kernel, and alpha; of the nonlinearities, hardtanh alone."""
    kernel = kernel.signs(jnp.float32) if isinstance(kernel, BitKernel) else kernel
    alpha = jnp.ones(kernel.shape[-1:], jnp.float32) if alpha is None else alpha

    def normalized(scale, bias, axis_name):
        return ops.unit(x, kernel, alpha, scale, bias, shortcut, spec, EPSILON, axis_name, clamp)

    def evaluated(*norm):
        return ops.unit_in_evaluation(x, kernel, alpha, jnp.stack(norm), shortcut, spec, clamp)

    like = jax.ShapeDtypeStruct((*x.shape[:-1], kernel.shape[-1]), x.dtype)
    return batch_norm(like, use_running_average=not train, normalized=normalized, evaluated=evaluated)
