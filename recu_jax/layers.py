"""Linen layers with 1-bit weights and activations, drop-in for `nn.Conv` and `nn.Dense`.

    y = BinaryConv(64, (3, 3))(x, tau=tau, train=True)

Both hold real latent weights (`kernel`) and, by default, one learned scale per output channel (`alpha`). `tau` may
be left out: nothing is clamped then, which changes gradients but no output. In a model that passes no tau on,
`recu_jax.with_tau` hands it to all layers, together with the news that they train.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import canonicalize_dtype

from recu_jax import functional
from recu_jax.conv import PaddingLike, check_groups, per_channel
from recu_jax.errors import unknown

Scale = Literal["learned", "mean", "none"]
# What `recu_jax.with_tau` puts beside a kernel.
TAU = "recu_tau"

# Kaiming normal, fan-in, gain sqrt(2), not truncated (SPEC.md 6).
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
_alpha_init = nn.initializers.uniform(scale=1.0)


class _BinaryLayer(nn.Module):
    """What the layers share: where tau and the scale of the outputs come from, and in which dtype they compute."""

    features: int

    def _tau_and_train(
        self, tau: jax.Array | float | None, train: bool | None
    ) -> tuple[jax.Array | float | None, bool]:
        """The arguments of a call; where they are left out, what `recu_jax.with_tau` says."""
        if tau is None and self.has_variable("params", TAU):
            tau = self.get_variable("params", TAU).ravel()[0]
            train = True if train is None else train
        if tau is not None:
            functional.check_tau(tau)
        return tau, bool(train)

    def _compute_dtype(self, x: jax.Array) -> Any:
        return canonicalize_dtype(x, dtype=self.dtype or jnp.promote_types(x.dtype, self.param_dtype))

    def _alpha(self, kernel: jax.Array, tau: jax.Array | float | None, train: bool) -> jax.Array | None:
        if self.scale == "none":
            return None
        if self.scale == "learned":
            return self.param("alpha", self.alpha_init, (self.features,), self.param_dtype)
        if self.scale == "mean":
            clamped = functional.latent_to_clamped(
                kernel, self._remembered_tau(tau, train), standardized=self.standardize, clamp=self.clamp
            )
            return functional.computed_alpha(clamped)
        raise unknown("scale", self.scale, ("learned", "mean", "none"))

    def _remembered_tau(self, tau: jax.Array | float | None, train: bool) -> jax.Array | float:
        """The computed scale depends on tau, so evaluation without one takes that of the last training step."""
        last = self.variable("batch_stats", "tau", lambda: jnp.ones((), self.param_dtype))
        if tau is None:
            return 1.0 if train else last.value
        if train and self.is_mutable_collection("batch_stats"):
            last.value = jnp.asarray(tau, self.param_dtype)
        return tau


class BinaryConv(_BinaryLayer):
    """1-bit convolution over 1, 2 or 3 spatial dimensions, channels last (SPEC.md sections 1 to 3).

    Variables: `params/kernel` (*kernel_size, in_features / feature_group_count, features), `params/alpha`
    (features,) with `scale="learned"`, `params/bias` (features,) with `use_bias`, and `batch_stats/tau` () with
    `scale="mean"`.

    Attributes:
      features: output channels.
      kernel_size: one int per spatial dimension; an int means one dimension, as in `nn.Conv`.
      strides: int or one per spatial dimension.
      padding: `"SAME"`, `"SAME_LOWER"`, `"VALID"`, `"CIRCULAR"`, `"REFLECT"`, `"CAUSAL"` (1-D), an int, or one int
        or (low, high) per spatial dimension. Zeros are added after the sign and so are neither +1 nor -1; `"SAME"`
        pads as in JAX: at stride 2 that is not what PyTorch's `padding=1` does.
      kernel_dilation: int or one per spatial dimension.
      feature_group_count: groups of channels; `in_features` makes it depthwise.
      use_bias: unlike `nn.Conv`, False: 1-bit layers are followed by a normalisation.
      dtype: of the computation; None infers it from the input and `param_dtype`.
      param_dtype: of the parameters. Weights are standardised in it, also when `dtype` is bfloat16.
      kernel_init, bias_init, alpha_init: initializers.
      scale: `"learned"` alpha (the authors' code), `"mean"` of the clamped weights' magnitude (the paper), `"none"`.
      standardize: False leaves out the standardisation of the weights.
      clamp: False leaves out ReCU.
      binary_weights: False takes the latent weights as they are, so that only the activations are 1 bit: the first
        stage of two-stage training (SPEC.md 7).
    """

    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] | None = 1
    padding: PaddingLike = "SAME"
    kernel_dilation: int | Sequence[int] | None = 1
    feature_group_count: int = 1
    use_bias: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Callable[..., jax.Array] = kaiming_normal
    bias_init: Callable[..., jax.Array] = nn.initializers.zeros_init()
    alpha_init: Callable[..., jax.Array] = _alpha_init
    scale: Scale = "learned"
    standardize: bool = True
    clamp: bool = True
    binary_weights: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, tau: jax.Array | float | None = None, train: bool | None = None) -> jax.Array:
        """Applies the layer.

        Args:
          x: (*batch, *spatial, in_features); any number of batch dimensions, none included.
          tau: in (0.5, 1], a Python number or a scalar array; None clamps nothing, or takes that of
            `recu_jax.with_tau`.
          train: whether to normalise each sample before its sign, which places the gradient's window. None: only
            with the tau of `recu_jax.with_tau`.

        Returns:
          (*batch, *out_spatial, features) in the computation's dtype.

        Raises:
          UserError: tau outside (0.5, 1], channels that do not divide into groups, an unknown padding or scale.
        """
        tau, train = self._tau_and_train(tau, train)
        window = (self.kernel_size,) if isinstance(self.kernel_size, int) else tuple(self.kernel_size)
        in_features, groups = x.shape[-1], self.feature_group_count
        check_groups(in_features, self.features, groups)
        kernel = self.param(
            "kernel", self.kernel_init, (*window, in_features // groups, self.features), self.param_dtype
        )
        alpha = self._alpha(kernel, tau, train)

        batch_shape = x.shape[: x.ndim - len(window) - 1]
        x = x.reshape(-1, *x.shape[len(batch_shape) :]).astype(self._compute_dtype(x))
        y = functional.binary_conv(
            x,
            kernel,
            alpha,
            tau,
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
            feature_group_count=groups,
            train=train,
            standardized=self.standardize,
            clamp=self.clamp,
            binary=self.binary_weights,
        )
        if self.use_bias:
            y = y + per_channel(self.param("bias", self.bias_init, (self.features,), self.param_dtype), y)
        return y.reshape(*batch_shape, *y.shape[1:])


class BinaryDense(_BinaryLayer):
    """1-bit dense layer over the last axis; attributes and variables as in `BinaryConv`."""

    use_bias: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Callable[..., jax.Array] = kaiming_normal
    bias_init: Callable[..., jax.Array] = nn.initializers.zeros_init()
    alpha_init: Callable[..., jax.Array] = _alpha_init
    scale: Scale = "learned"
    standardize: bool = True
    clamp: bool = True
    binary_weights: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, tau: jax.Array | float | None = None, train: bool | None = None) -> jax.Array:
        """Applies the layer to x of (..., in_features): (..., features). The rest as in `BinaryConv`."""
        tau, train = self._tau_and_train(tau, train)
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), self.param_dtype)
        alpha = self._alpha(kernel, tau, train)
        y = functional.binary_dense(
            x.astype(self._compute_dtype(x)),
            kernel,
            alpha,
            tau,
            train=train,
            standardized=self.standardize,
            clamp=self.clamp,
            binary=self.binary_weights,
        )
        if self.use_bias:
            y = y + per_channel(self.param("bias", self.bias_init, (self.features,), self.param_dtype), y)
        return y


class Conv(nn.Conv):
    """`nn.Conv` that takes and ignores `tau` and `train`: the full-precision twin of `BinaryConv`."""

    use_bias: bool = False
    kernel_init: Callable[..., jax.Array] = kaiming_normal

    def __call__(self, x: jax.Array, tau: Any = None, train: bool = False) -> jax.Array:
        return super().__call__(x)


class Dense(nn.Dense):
    """`nn.Dense` that takes and ignores `tau` and `train`: the full-precision twin of `BinaryDense`."""

    def __call__(self, x: jax.Array, tau: Any = None, train: bool = False) -> jax.Array:
        return super().__call__(x)
