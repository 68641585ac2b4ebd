"""Linen layers with 1-bit weights and activations, drop-in for `nn.Conv` and `nn.Dense`.

    y = BinaryConv(64, (3, 3))(x, tau=tau, train=True)

Both layers hold real latent weights (`kernel`) and, by default, one learned scale per output channel (`alpha`). They
binarize as ReCU does, or with other binarizers of `recu_jax.binarizers`.

Without `tau` nothing is clamped. Tau changes the gradients. It does not change the outputs, except with `alpha="mean"`.
If a model does not pass tau to its layers, use `recu_jax.with_tau`: it gives tau to all layers and sets train=True.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax

from recu_jax import functional
from recu_jax.binarizers import ActivationBinarizer, WeightBinarizer, activations, weights
from recu_jax.errors import UserError, unknown
from recu_jax.ops.conv import PaddingLike, check_groups, per_channel

Number = jax.Array | float
Alpha = Literal["learned", "mean", "none"]
ALPHAS = get_args(Alpha)
# Names of the entries that `recu_jax.with_tau` adds beside a kernel.
TAU, PROGRESS = "recu_tau", "recu_progress"

# Arguments of Flax's layers that a 1-bit layer refuses, and the reason.
_REPLACES = "it would replace the product, and a 1-bit layer counts bits instead; leave it out, or use Flax's own layer"
_REFUSED = {
    "mask": "a masked weight is 0, but a 1-bit weight is +1 or -1; use feature_group_count, or Flax's own layer",
    **dict.fromkeys(("conv_general_dilated", "conv_general_dilated_cls", "dot_general", "dot_general_cls"), _REPLACES),
}

# Kaiming normal, fan-in, gain sqrt(2), not truncated (SPEC.md 6).
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
_alpha_init = nn.initializers.uniform(scale=1.0)


class _BinaryLayer(nn.Module):
    """The part that both layers share: tau, binarization, scale of the outputs, dtype of the computation."""

    features: int

    def __post_init__(self):
        super().__post_init__()
        for name, reason in _REFUSED.items():
            given = getattr(self, name, None)
            # NNX names the functions of lax where Linen has None.
            if given is not None and given is not lax.conv_general_dilated and given is not lax.dot_general:
                raise UserError(f"{type(self).__name__}: {name} is given; {reason}")
        wanted = self.preferred_element_type
        if wanted is not None and not jnp.issubdtype(wanted, jnp.floating):
            raise UserError(
                f"{type(self).__name__}: preferred_element_type is {jnp.dtype(wanted).name}; it must be a floating "
                "dtype, as alpha multiplies the outputs"
            )

    def _training(self, tau: Any, train: bool | None, progress: Any) -> tuple[Any, bool, Any]:
        """Checks the arguments of a call, and takes missing ones from the variables of `recu_jax.with_tau`."""
        if tau is None and self.has_variable("params", TAU):
            tau = self.get_variable("params", TAU).ravel()[0]
            train = True if train is None else train
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

    def _promoted(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Returns `x` in the dtype of the computation. The kernel keeps its dtype until it is binarized."""
        return self.promote_dtype(x, kernel, None, dtype=self.dtype)[0]

    def _signs(self, x: jax.Array, sample_ndim: int, progress: Any, train: bool) -> jax.Array:
        binarizer = self.input_binarizer
        parameters = {
            name: self.param(name, init, x.shape[-1:], self.param_dtype) for name, init in binarizer.parameters.items()
        }
        signs = binarizer(x, sample_ndim=sample_ndim, train=train, progress=progress, **parameters)
        return signs if self.preferred_element_type is None else signs.astype(self.preferred_element_type)

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

    All arguments of `nn.Conv` are taken, or refused with a UserError that gives the reason.

    Attributes:
      features: output channels.
      kernel_size: one int per spatial dimension; an int means one dimension, as in `nn.Conv`.
      strides: an int, or one per spatial dimension.
      padding: `"SAME"`, `"SAME_LOWER"`, `"VALID"`, `"CIRCULAR"`, `"REFLECT"`, `"CAUSAL"` (1-D), an int, or one int or
        (low, high) per spatial dimension. Zeros are added after the sign, so they are neither +1 nor -1. `"SAME"` pads
        as in JAX; at stride 2 PyTorch's `padding=1` pads in another way.
      input_dilation: an int, or one per spatial dimension. The zeros between the signs count 0, as padding does.
      kernel_dilation: an int, or one per spatial dimension.
      feature_group_count: groups of channels; `in_features` groups make a depthwise convolution.
      use_bias: whether to add a bias. The default is False, unlike in `nn.Conv`, because a normalization follows 1-bit
        layers.
      mask, conv_general_dilated, conv_general_dilated_cls: refused unless None, with the reason.
      dtype: dtype of the computation; None infers it from the input and `param_dtype`.
      param_dtype: dtype of the parameters. Weights are standardized in it, also when `dtype` is bfloat16.
      precision: as in `nn.Conv`. It matters with `binary_weights=False` and in gradients: sums of signs are exact.
      promote_dtype: as in `nn.Conv`; it gives the dtype of the input. The signs of the kernel follow.
      preferred_element_type: floating dtype of the products and of the outputs, as in `nnx.Conv`; None is `dtype`.
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
    input_dilation: int | Sequence[int] | None = 1
    kernel_dilation: int | Sequence[int] | None = 1
    feature_group_count: int = 1
    use_bias: bool = False
    mask: Any = None
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Any = None
    kernel_init: Callable[..., jax.Array] = kaiming_normal
    bias_init: Callable[..., jax.Array] = nn.initializers.zeros_init()
    promote_dtype: Callable[..., Any] = promote_dtype
    conv_general_dilated: Any = None
    conv_general_dilated_cls: Any = None
    preferred_element_type: Any = None
    alpha_init: Callable[..., jax.Array] = _alpha_init
    alpha: Alpha = "learned"
    binary_weights: bool = True
    kernel_binarizer: WeightBinarizer = weights.ReCU()
    input_binarizer: ActivationBinarizer = activations.ReCU()

    @nn.compact
    def __call__(
        self, inputs: jax.Array, tau: Number | None = None, train: bool | None = None, progress: Number | None = None
    ) -> jax.Array:
        """Applies the layer.

        A NaN in the inputs or in the kernel gives NaN, as in `nn.Conv`; see `functional.conv_of_signs`.

        Args:
          inputs: (*batch, *spatial, in_features); any number of batch dimensions, also none.
          tau: in (0.5, 1], a Python number or a scalar array. None takes the tau of `recu_jax.with_tau`; without it
            nothing is clamped.
          train: whether gradients are wanted. ReCU then normalizes each sample, which sets the window of the gradient.
            None trains only if tau comes from `recu_jax.with_tau`.
          progress: share of the training that is over, from 0 to 1, for annealed binarizers; evaluation needs none.

        Returns:
          (*batch, *out_spatial, features) in the dtype of the computation.

        Raises:
          UserError: tau is outside (0.5, 1], the channels do not divide into groups, the padding or alpha is unknown,
            alpha is `"mean"` with a binarizer other than ReCU, or an annealed binarizer trains without progress.
        """
        tau, train, progress = self._training(tau, train, progress)
        window = (self.kernel_size,) if isinstance(self.kernel_size, int) else tuple(self.kernel_size)
        x, in_features, groups = inputs, inputs.shape[-1], self.feature_group_count
        check_groups(in_features, self.features, groups)
        kernel = self.param(
            "kernel", self.kernel_init, (*window, in_features // groups, self.features), self.param_dtype
        )
        batch_shape = x.shape[: x.ndim - len(window) - 1]
        x = self._promoted(x.reshape(-1, *x.shape[len(batch_shape) :]), kernel)
        signs_of_kernel, alpha = self._weights_and_alpha(kernel, tau, progress, train)
        y = functional.conv_of_signs(
            self._signs(x, x.ndim - 1, progress, train),
            signs_of_kernel,
            alpha,
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
            feature_group_count=groups,
            input_dilation=self.input_dilation,
            precision=self.precision,
            binary=self.binary_weights,
        )
        if self.use_bias:
            y = y + per_channel(self.param("bias", self.bias_init, (self.features,), self.param_dtype), y)
        return y.reshape(*batch_shape, *y.shape[1:])


class BinaryDense(_BinaryLayer):
    """1-bit dense layer over the last axis. Attributes and variables are as in `BinaryConv`.

    `dot_general` and `dot_general_cls` are refused unless None, with the reason.
    """

    use_bias: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Any = None
    kernel_init: Callable[..., jax.Array] = kaiming_normal
    bias_init: Callable[..., jax.Array] = nn.initializers.zeros_init()
    promote_dtype: Callable[..., Any] = promote_dtype
    dot_general: Any = None
    dot_general_cls: Any = None
    preferred_element_type: Any = None
    alpha_init: Callable[..., jax.Array] = _alpha_init
    alpha: Alpha = "learned"
    binary_weights: bool = True
    kernel_binarizer: WeightBinarizer = weights.ReCU()
    input_binarizer: ActivationBinarizer = activations.ReCU()

    @nn.compact
    def __call__(
        self, inputs: jax.Array, tau: Number | None = None, train: bool | None = None, progress: Number | None = None
    ) -> jax.Array:
        """Applies the layer to (..., in_features), and returns (..., features). All else is as in `BinaryConv`."""
        tau, train, progress = self._training(tau, train, progress)
        kernel = self.param("kernel", self.kernel_init, (inputs.shape[-1], self.features), self.param_dtype)
        signs_of_kernel, alpha = self._weights_and_alpha(kernel, tau, progress, train)
        signs = self._signs(self._promoted(inputs, kernel), 1, progress, train)
        y = functional.dense_of_signs(signs, signs_of_kernel, alpha, precision=self.precision)
        if self.use_bias:
            y = y + per_channel(self.param("bias", self.bias_init, (self.features,), self.param_dtype), y)
        return y


class Conv(nn.Conv):
    """`nn.Conv` that takes and ignores `tau`, `train` and `progress`: the full-precision twin of `BinaryConv`."""

    use_bias: bool = False
    kernel_init: Callable[..., jax.Array] = kaiming_normal

    def __call__(self, inputs: jax.Array, tau: Any = None, train: bool = False, progress: Any = None) -> jax.Array:
        return super().__call__(inputs)


class Dense(nn.Dense):
    """`nn.Dense` that takes and ignores `tau`, `train` and `progress`: the full-precision twin of `BinaryDense`."""

    def __call__(self, inputs: jax.Array, tau: Any = None, train: bool = False, progress: Any = None) -> jax.Array:
        return super().__call__(inputs)
