"""Linen layers with 1-bit weights and activations, drop-in for `nn.Conv` and `nn.Dense`.

    y = BinaryConv(64, (3, 3))(x, tau=tau, train=True)

Both hold real latent weights (`kernel`) and, by default, one learned scale per output channel (`alpha`). They binarise
as ReCU does, or as the binarizers do that they are given (`recu_jax.binarizers`). `tau` may be left out: nothing is
clamped then, which changes gradients but no output. In a model that passes no tau on, `recu_jax.with_tau` hands it to
all layers, together with the news that they train.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import canonicalize_dtype

from recu_jax import functional
from recu_jax.binarizers import ActivationBinarizer, Annealed, WeightBinarizer
from recu_jax.binarizers import activations as activation_binarizers
from recu_jax.binarizers import weights as weight_binarizers
from recu_jax.binarizers.interface import split_progress
from recu_jax.conv import PaddingLike, check_groups, per_channel
from recu_jax.errors import UserError, unknown

Scale = Literal["learned", "mean", "none"]
# What `recu_jax.with_tau` puts beside a kernel.
TAU = "recu_tau"

# Kaiming normal, fan-in, gain sqrt(2), not truncated (SPEC.md 6).
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
_alpha_init = nn.initializers.uniform(scale=1.0)


class _BinaryLayer(nn.Module):
    """What the layers share: tau, how signs and the scale of the outputs come about, and the computation's dtype."""

    features: int

    def _tau_and_train(self, tau: Any, train: bool | None) -> tuple[Any, bool]:
        """The arguments of a call; where they are left out, what `recu_jax.with_tau` says."""
        if tau is None and self.has_variable("params", TAU):
            tau = self.get_variable("params", TAU).ravel()[0]
            train = True if train is None else train
        return tau, bool(train)

    def _compute_dtype(self, x: jax.Array) -> Any:
        return canonicalize_dtype(x, dtype=self.dtype or jnp.promote_types(x.dtype, self.param_dtype))

    @property
    def _weight_binarizer(self) -> WeightBinarizer:
        return self.weights or weight_binarizers.ReCU(self.standardize, self.clamp, self.b, self.centre)

    @property
    def _activation_binarizer(self) -> ActivationBinarizer:
        return self.activations or activation_binarizers.ReCU()

    def _split_progress(self, tau: Any, train: bool) -> tuple[Any, Any]:
        """tau and progress, checked."""
        tau, progress = split_progress(tau)
        if tau is not None:
            functional.check_tau(tau)
        if train and progress is None:
            for binarizer in (self._weight_binarizer, self._activation_binarizer):
                if binarizer.annealed:
                    raise UserError(
                        f"{binarizer} changes its gradient as training goes on and was told of no progress; give the "
                        "model or layer tau=recu_jax.binarizers.Annealed(tau, progress)"
                    )
        return tau, progress

    def _signs(self, x: jax.Array, sample_ndim: int, progress: Any, train: bool) -> jax.Array:
        binarizer = self._activation_binarizer
        parameters = {
            name: self.param(name, init, x.shape[-1:], self.param_dtype) for name, init in binarizer.parameters.items()
        }
        return binarizer(x, sample_ndim=sample_ndim, train=train, progress=progress, **parameters)

    def _weights_and_alpha(
        self, kernel: jax.Array, tau: Any, progress: Any, train: bool
    ) -> tuple[jax.Array, jax.Array | None]:
        """What the signs are multiplied with, and the scale of each output channel, (features,), or None."""
        binarizer, alpha = self._weight_binarizer, None
        if self.scale == "learned":
            alpha = self.param("alpha", self.alpha_init, (self.features,), self.param_dtype)
        elif self.scale == "mean":
            alpha = self._mean_alpha(binarizer, kernel, tau, train)
        elif self.scale != "none":
            raise unknown("scale", self.scale, ("learned", "mean", "none"))
        if not self.binary_weights:
            return kernel, alpha
        weights, own = binarizer(kernel, tau, progress)
        if own is not None:
            alpha = own if alpha is None else alpha * own
        return weights, alpha

    def _mean_alpha(self, binarizer: WeightBinarizer, kernel: jax.Array, tau: Any, train: bool) -> jax.Array:
        if not isinstance(binarizer, weight_binarizers.ReCU):
            raise UserError(
                f"scale is 'mean', which is ReCU's, and weights is {binarizer}; use scale='learned' or 'none'"
            )
        return functional.computed_alpha(binarizer.clamped(kernel, self._remembered_tau(tau, train)))

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
    `scale="mean"`; besides, in `params`, what the activations' binarizer learns, such as `shift` (in_features,).

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
        A scale that the weights' binarizer has of its own is there with all of them: learned alpha multiplies it.
      standardize: False leaves out the standardisation of ReCU's weights.
      clamp: False leaves out their clamp.
      b: scale b* of the Laplace distribution that they have once they are standardised.
      centre: False standardises them without subtracting the mean of each channel.
      binary_weights: False takes the latent weights as they are, so that only the activations are 1 bit: the first
        stage of two-stage training (SPEC.md 7).
      weights, activations: binarizers (`recu_jax.binarizers`); None is ReCU's.
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
    b: float = 2.0
    centre: bool = True
    binary_weights: bool = True
    weights: WeightBinarizer | None = None
    activations: ActivationBinarizer | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, tau: jax.Array | float | Annealed | None = None, train: bool | None = None
    ) -> jax.Array:
        """Applies the layer.

        Args:
          x: (*batch, *spatial, in_features); any number of batch dimensions, none included.
          tau: in (0.5, 1], a Python number or a scalar array; None clamps nothing, or takes that of
            `recu_jax.with_tau`. `Annealed(tau, progress)` where a binarizer is annealed, which training needs and
            evaluation does not.
          train: whether gradients are wanted: ReCU normalises each sample then, which places the gradient's window.
            None: only with the tau of `recu_jax.with_tau`.

        Returns:
          (*batch, *out_spatial, features) in the computation's dtype.

        Raises:
          UserError: tau outside (0.5, 1], channels that do not divide into groups, an unknown padding or scale, a
            scale that does not go with the binarizer, training of an annealed one without progress.
        """
        tau, train = self._tau_and_train(tau, train)
        tau, progress = self._split_progress(tau, train)
        window = (self.kernel_size,) if isinstance(self.kernel_size, int) else tuple(self.kernel_size)
        in_features, groups = x.shape[-1], self.feature_group_count
        check_groups(in_features, self.features, groups)
        kernel = self.param(
            "kernel", self.kernel_init, (*window, in_features // groups, self.features), self.param_dtype
        )
        batch_shape = x.shape[: x.ndim - len(window) - 1]
        x = x.reshape(-1, *x.shape[len(batch_shape) :]).astype(self._compute_dtype(x))
        weights, alpha = self._weights_and_alpha(kernel, tau, progress, train)
        y = functional.conv_of_signs(
            self._signs(x, x.ndim - 1, progress, train),
            weights,
            alpha,
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
            feature_group_count=groups,
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
    b: float = 2.0
    centre: bool = True
    binary_weights: bool = True
    weights: WeightBinarizer | None = None
    activations: ActivationBinarizer | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, tau: jax.Array | float | Annealed | None = None, train: bool | None = None
    ) -> jax.Array:
        """Applies the layer to x of (..., in_features): (..., features). The rest as in `BinaryConv`."""
        tau, train = self._tau_and_train(tau, train)
        tau, progress = self._split_progress(tau, train)
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), self.param_dtype)
        weights, alpha = self._weights_and_alpha(kernel, tau, progress, train)
        signs = self._signs(x.astype(self._compute_dtype(x)), 1, progress, train)
        y = functional.dense_of_signs(signs, weights, alpha)
        if self.use_bias:
            y = y + per_channel(self.param("bias", self.bias_init, (self.features,), self.param_dtype), y)
        return y


def binary_kernels(model: nn.Module, *args: Any) -> frozenset[tuple[str, ...]]:
    """Paths in `params` of the kernels that a model has in its 1-bit layers, where these have 1-bit weights.

    Args:
      model: any Linen model.
      *args: what it is called with; shapes suffice (`jax.ShapeDtypeStruct`). Nothing is computed.
    """
    found = set()

    def watch(next_function, args, kwargs, context):
        module = context.module
        if isinstance(module, _BinaryLayer) and context.method_name == "__call__" and module.binary_weights:
            found.add((*module.path, "kernel"))
        return next_function(*args, **kwargs)

    def init(*args):
        with nn.intercept_methods(watch):
            return model.init(jax.random.key(0), *args)

    jax.eval_shape(init, *args)
    return frozenset(found)


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
