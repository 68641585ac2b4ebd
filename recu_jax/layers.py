"""Linen layers with 1-bit weights and activations, drop-in for `nn.Conv` and `nn.Dense`.

    y = BinaryConv(64, (3, 3))(x, tau=tau, train=True)

Both layers hold real latent weights (`kernel`) and, by default, one learned scale per output channel (`alpha`). They
binarize as ReCU does, or with other binarizers of `recu_jax.binarizers`.

Training with ReCU needs `tau`; `tau=None` clamps nothing. Tau changes the gradients. It does not change the outputs,
except with `alpha="mean"`. If a model does not pass tau to its layers, use `recu_jax.with_tau`: it gives tau to all
layers and sets train=True.
"""

import enum
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import canonicalize_dtype

from recu_jax import functional
from recu_jax.binarizers import ActivationBinarizer, WeightBinarizer, activations, weights
from recu_jax.errors import UserError, unknown
from recu_jax.ops.conv import PaddingLike, check_groups, per_channel

Number = jax.Array | float
Alpha = Literal["learned", "mean", "none"]
ALPHAS = get_args(Alpha)
# Names of the entries that `recu_jax.with_tau` adds beside a kernel.
TAU, PROGRESS = "recu_tau", "recu_progress"


class NotGiven(enum.Enum):
    """Type of `NOT_GIVEN`, the default of `tau`. It differs from None, which asks for no clamp.

    A model that passes tau on to its layers uses the same default:

        def __call__(self, x, tau=recu_jax.NOT_GIVEN, train=False):
    """

    NOT_GIVEN = enum.auto()

    def __repr__(self) -> str:
        return self.name


NOT_GIVEN = NotGiven.NOT_GIVEN
Tau = Number | NotGiven | None
# As None, it passes through `jit`, `nn.remat` and `nn.scan`, which take arrays alone.
jax.tree_util.register_static(NotGiven)

# Kaiming normal, fan-in, gain sqrt(2), not truncated (SPEC.md 6).
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
_alpha_init = nn.initializers.uniform(scale=1.0)


class _BinaryLayer(nn.Module):
    """The part that both layers share: tau, binarization, scale of the outputs, dtype of the computation."""

    features: int

    def _training(self, tau: Tau, train: bool | None, progress: Any) -> tuple[Any, bool, Any]:
        """Checks the arguments of a call, and takes missing ones from the variables of `recu_jax.with_tau`."""
        kept = self.get_variable("params", TAU).ravel()[0] if self.has_variable("params", TAU) else None
        if train is None:
            train = kept is not None and (tau is None or tau is NOT_GIVEN)
        if train and self._needs_tau():
            self._check_tau_is_given(tau, kept)
        if tau is None or tau is NOT_GIVEN:
            tau = kept
        if progress is None and self.has_variable("params", PROGRESS):
            progress = self.get_variable("params", PROGRESS).ravel()[0]
        if tau is not None:
            functional.check_tau(tau)
        if train and progress is None:
            for binarizer in (self.kernel_binarizer, self.input_binarizer):
                if binarizer.annealed:
                    raise UserError(
                        f"{binarizer} needs the progress of the training, as its gradient changes with it; give the "
                        "layer progress=, from 0 to 1, or the whole model by recu_jax.with_tau or "
                        "recu_jax.set_tau(..., progress=)"
                    )
        return tau, bool(train), progress

    def _needs_tau(self) -> bool:
        """Whether training needs tau. Creating the variables needs none."""
        used = self.binary_weights or self.alpha == "mean"
        return used and self.kernel_binarizer.needs_tau and not self.is_initializing()

    def _check_tau_is_given(self, tau: Tau, kept: jax.Array | None) -> None:
        """Raises UserError if a training call has no tau, or if it asks for None and `recu_jax.with_tau` gave one."""
        where = "/".join(self.path) or type(self).__name__
        if tau is NOT_GIVEN and kept is None:
            raise UserError(
                f"{where} trains without tau, so it would clamp nothing; give the call tau=, above 0.5 and at most 1, "
                "or the whole model by recu_jax.with_tau (Linen) or recu_jax.set_tau (NNX); tau=None trains without a "
                "clamp; evaluation (train=False, or model.eval() in NNX) needs no tau"
            )
        if tau is None and kept is not None:
            raise UserError(
                f"{where} trains with tau=None, and recu_jax.with_tau or recu_jax.set_tau gave the model a tau; to use "
                "that tau, leave the argument out (a model of your own passes on tau=recu_jax.NOT_GIVEN); to clamp "
                "nothing here, give tau=1"
            )

    def _compute_dtype(self, x: jax.Array) -> Any:
        return canonicalize_dtype(x, dtype=self.dtype or jnp.promote_types(x.dtype, self.param_dtype))

    def _signs(self, x: jax.Array, sample_ndim: int, progress: Any, train: bool) -> jax.Array:
        binarizer = self.input_binarizer
        parameters = {
            name: self.param(name, init, x.shape[-1:], self.param_dtype) for name, init in binarizer.parameters.items()
        }
        return binarizer(x, sample_ndim=sample_ndim, train=train, progress=progress, **parameters)

    def _weights_and_alpha(
        self, kernel: jax.Array, tau: Any, progress: Any, train: bool
    ) -> tuple[jax.Array, jax.Array | None]:
        """Returns the weights of the product, and the scale of each output channel, (features,), or None."""
        binarizer, alpha = self.kernel_binarizer, None
        if self.alpha == "learned":
            alpha = self.param("alpha", self.alpha_init, (self.features,), self.param_dtype)
        elif self.alpha == "mean":
            alpha = self._mean_alpha(kernel, tau, train)
        elif self.alpha != "none":
            raise unknown("alpha", self.alpha, ALPHAS)
        if not self.binary_weights:
            return kernel, alpha
        signs, own = binarizer(kernel, tau, progress)
        if own is not None:
            alpha = own if alpha is None else alpha * own
        return signs, alpha

    def _mean_alpha(self, kernel: jax.Array, tau: Any, train: bool) -> jax.Array:
        if not isinstance(self.kernel_binarizer, weights.ReCU):
            raise UserError(
                f"alpha is 'mean', which is ReCU's, and kernel_binarizer is {self.kernel_binarizer}; use "
                "alpha='learned' or 'none'"
            )
        return functional.mean_alpha(self.kernel_binarizer.clamped(kernel, self._remembered_tau(tau, train)))

    def _remembered_tau(self, tau: jax.Array | float | None, train: bool) -> jax.Array | float:
        """Returns `tau`, or without one the tau of the last training step: the computed scale depends on it."""
        last = self.variable("batch_stats", "tau", lambda: jnp.ones((), self.param_dtype))
        if tau is None:
            return 1.0 if train else last.value
        if train and self.is_mutable_collection("batch_stats"):
            last.value = jnp.asarray(tau, self.param_dtype)
        return tau


class BinaryConv(_BinaryLayer):
    """1-bit convolution over 1, 2 or 3 spatial dimensions, channels last (SPEC.md sections 1 to 3).

    Variables:

    - `params/kernel`: (*kernel_size, in_features / feature_group_count, features).
    - `params/alpha`: (features,), with `alpha="learned"`.
    - `params/bias`: (features,), with `use_bias`.
    - `batch_stats/tau`: (), with `alpha="mean"`.
    - `params` also holds the parameters that the input binarizer learns, such as `shift`: (in_features,).

    Attributes:
      features: output channels.
      kernel_size: one int per spatial dimension; an int means one dimension, as in `nn.Conv`.
      strides: an int, or one per spatial dimension.
      padding: `"SAME"`, `"SAME_LOWER"`, `"VALID"`, `"CIRCULAR"`, `"REFLECT"`, `"CAUSAL"` (1-D), an int, or one int or
        (low, high) per spatial dimension. Zeros are added after the sign, so they are neither +1 nor -1. `"SAME"` pads
        as in JAX; at stride 2 PyTorch's `padding=1` pads in another way.
      kernel_dilation: an int, or one per spatial dimension.
      feature_group_count: groups of channels; `in_features` groups make a depthwise convolution.
      use_bias: whether to add a bias. The default is False, unlike in `nn.Conv`, because a normalization follows 1-bit
        layers.
      dtype: dtype of the computation; None infers it from the input and `param_dtype`.
      param_dtype: dtype of the parameters. Weights are standardized in it, also when `dtype` is bfloat16.
      kernel_init, bias_init, alpha_init: initializers.
      alpha: scale of each output channel: `"learned"` (the authors' code), `"mean"` of the clamped weights' magnitude
        (the paper), or `"none"`. If the kernel binarizer has a scale of its own, the outputs are multiplied by both.
      binary_weights: False uses the latent weights without binarization. Only the activations are then 1 bit, as in
        stage 1 of two-stage training (SPEC.md 7).
      kernel_binarizer: binarizer of the latent weights, `ReCU()` or another of `recu_jax.binarizers.weights`.
      input_binarizer: binarizer of the activations, `ReCU()` or another of `recu_jax.binarizers.activations`.
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
    alpha: Alpha = "learned"
    binary_weights: bool = True
    kernel_binarizer: WeightBinarizer = weights.ReCU()
    input_binarizer: ActivationBinarizer = activations.ReCU()

    @nn.compact
    def __call__(
        self, x: jax.Array, tau: Tau = NOT_GIVEN, train: bool | None = None, progress: Number | None = None
    ) -> jax.Array:
        """Applies the layer.

        A NaN in `x` or in the kernel gives NaN, as in `nn.Conv`; see `functional.conv_of_signs`.

        Args:
          x: (*batch, *spatial, in_features); any number of batch dimensions, also none.
          tau: in (0.5, 1], a Python number or a scalar array. Left out, it is the tau of `recu_jax.with_tau`. None
            clamps nothing.
          train: whether gradients are wanted. ReCU then normalizes each sample, which sets the window of the gradient.
            None trains only if tau comes from `recu_jax.with_tau`.
          progress: share of the training that is over, from 0 to 1, for annealed binarizers; evaluation needs none.

        Returns:
          (*batch, *out_spatial, features) in the dtype of the computation.

        Raises:
          UserError: tau is outside (0.5, 1], the channels do not divide into groups, the padding or alpha is unknown,
            alpha is `"mean"` with a binarizer other than ReCU, a binarizer that clamps trains without tau, or an
            annealed one without progress; or tau is None although `recu_jax.with_tau` gave one.
        """
        tau, train, progress = self._training(tau, train, progress)
        window = (self.kernel_size,) if isinstance(self.kernel_size, int) else tuple(self.kernel_size)
        in_features, groups = x.shape[-1], self.feature_group_count
        check_groups(in_features, self.features, groups)
        kernel = self.param(
            "kernel", self.kernel_init, (*window, in_features // groups, self.features), self.param_dtype
        )
        batch_shape = x.shape[: x.ndim - len(window) - 1]
        x = x.reshape(-1, *x.shape[len(batch_shape) :]).astype(self._compute_dtype(x))
        signs_of_kernel, alpha = self._weights_and_alpha(kernel, tau, progress, train)
        y = functional.conv_of_signs(
            self._signs(x, x.ndim - 1, progress, train),
            signs_of_kernel,
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
    """1-bit dense layer over the last axis. Attributes and variables are as in `BinaryConv`."""

    use_bias: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Callable[..., jax.Array] = kaiming_normal
    bias_init: Callable[..., jax.Array] = nn.initializers.zeros_init()
    alpha_init: Callable[..., jax.Array] = _alpha_init
    alpha: Alpha = "learned"
    binary_weights: bool = True
    kernel_binarizer: WeightBinarizer = weights.ReCU()
    input_binarizer: ActivationBinarizer = activations.ReCU()

    @nn.compact
    def __call__(
        self, x: jax.Array, tau: Tau = NOT_GIVEN, train: bool | None = None, progress: Number | None = None
    ) -> jax.Array:
        """Applies the layer to x, (..., in_features), and returns (..., features). All else is as in `BinaryConv`."""
        tau, train, progress = self._training(tau, train, progress)
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), self.param_dtype)
        signs_of_kernel, alpha = self._weights_and_alpha(kernel, tau, progress, train)
        signs = self._signs(x.astype(self._compute_dtype(x)), 1, progress, train)
        y = functional.dense_of_signs(signs, signs_of_kernel, alpha)
        if self.use_bias:
            y = y + per_channel(self.param("bias", self.bias_init, (self.features,), self.param_dtype), y)
        return y


class Conv(nn.Conv):
    """`nn.Conv` that takes and ignores `tau`, `train` and `progress`: the full-precision twin of `BinaryConv`."""

    use_bias: bool = False
    kernel_init: Callable[..., jax.Array] = kaiming_normal

    def __call__(self, x: jax.Array, tau: Any = None, train: bool = False, progress: Any = None) -> jax.Array:
        return super().__call__(x)


class Dense(nn.Dense):
    """`nn.Dense` that takes and ignores `tau`, `train` and `progress`: the full-precision twin of `BinaryDense`."""

    def __call__(self, x: jax.Array, tau: Any = None, train: bool = False, progress: Any = None) -> jax.Array:
        return super().__call__(x)
