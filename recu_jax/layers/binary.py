"""Defines the 1-bit Linen layers `BinaryConv` and `BinaryDense`."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from recu_jax import functional
from recu_jax.binarizers import ActivationBinarizer, WeightBinarizer, activations, weights
from recu_jax.layers.not_given import NOT_GIVEN, Number, Tau
from recu_jax.layers.one_bit_layer import Alpha, OneBitLayer, alpha_init, kaiming_normal
from recu_jax.ops.conv import PaddingLike, check_groups, per_channel


class BinaryConv(OneBitLayer):
    """1-bit convolution over 1, 2 or 3 spatial dimensions, channels last (SPEC.md sections 1 to 3).

    Variables:

    - `params/kernel`: (*kernel_size, in_features / feature_group_count, features).
    - `params/alpha`: (features,), with `alpha="learned"`.
    - `params/bias`: (features,), with `use_bias`.
    - `batch_stats/tau`: (), with `alpha="mean"`.
    - `params` also holds the parameters that the input binarizer learns, such as `shift`: (in_features,), or
      (1,) if the layer has one.
    - After `recu_jax.pack`, `params` holds `kernel_bits` and `kernel_scale` in place of the kernel and of alpha.

    The layer has all arguments of `nn.Conv`. For a value that it does not support, it raises a UserError that gives the
    reason.

    Attributes:
      features: output channels.
      kernel_size: one int per spatial dimension; an int means one dimension, as in `nn.Conv`.
      strides: an int, or one per spatial dimension.
      padding: `"SAME"`, `"SAME_LOWER"`, `"VALID"`, `"CIRCULAR"`, `"REFLECT"`, `"CAUSAL"` (1-D), an int, or one int or
        (low, high) per spatial dimension. Zeros are added after the sign, so they are neither +1 nor -1. `"SAME"` pads
        as in JAX, which differs from PyTorch's `padding=1` at stride 2.
      input_dilation: an int, or one per spatial dimension. The zeros between the signs add 0 to a sum, like padding.
      kernel_dilation: an int, or one per spatial dimension.
      feature_group_count: groups of channels; `in_features` groups make a depthwise convolution.
      use_bias: whether to add a bias. The default is False, unlike in `nn.Conv`, because a normalization usually
        follows a 1-bit layer.
      mask, conv_general_dilated, conv_general_dilated_cls: must be None. `lax.conv_general_dilated` is accepted too.
        Any other value raises UserError.
      dtype: dtype of the computation; None infers it from the input and `param_dtype`.
      param_dtype: dtype of the parameters. Weights are standardized in this dtype even if `dtype` is bfloat16.
      precision: as in `nn.Conv`. It matters only with `binary_weights=False` and in gradients, because sums of signs
        are exact.
      promote_dtype: function that casts the inputs, as in `nn.Conv`. If `preferred_element_type` is None, the signs of
        the inputs and of the kernel have the dtype of the cast inputs.
      preferred_element_type: floating dtype of the products and of the outputs, as in `nnx.Conv`; None means `dtype`.
      kernel_init, bias_init, alpha_init: initializers.
      alpha: scale of each output channel. `"learned"`: a parameter (the authors' code). `"mean"`: the mean magnitude of
        the clamped weights (the paper). `"none"`: no scale. If the kernel binarizer returns a scale too, both multiply
        the outputs. Alpha also multiplies the offset of a binarizer that has one.
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
    alpha_init: Callable[..., jax.Array] = alpha_init
    alpha: Alpha = "learned"
    binary_weights: bool = True
    kernel_binarizer: WeightBinarizer = weights.ReCU()
    input_binarizer: ActivationBinarizer = activations.ReCU()

    @nn.compact
    def __call__(
        self, inputs: jax.Array, tau: Tau = NOT_GIVEN, train: bool | None = None, progress: Number | None = None
    ) -> jax.Array:
        """Applies the layer.

        A NaN in the inputs or in the kernel gives NaN, as in `nn.Conv`. `functional.conv_of_signs` says in which
        outputs.

        Args:
          inputs: (*batch, *spatial, in_features); any number of batch dimensions, including zero.
          tau: in (0.5, 1], a Python number or a scalar array. If it is left out, the layer uses the tau of
            `recu_jax.with_tau`. None turns the clamp off.
          train: whether gradients are wanted. If True, ReCU normalizes each sample, which decides where the gradient is
            not 0. None means True if tau comes from `recu_jax.with_tau`, and otherwise False.
          progress: share of the training that is over, from 0 to 1, for annealed binarizers in training. With None the
            layer uses the progress of `recu_jax.with_tau`, if there is any.

        Returns:
          (*batch, *out_spatial, features) in the dtype of the computation.

        Raises:
          UserError: tau is outside (0.5, 1], the channels do not divide into groups, the padding or alpha is unknown,
            the padding is `"SAME"` or `"SAME_LOWER"` with an input dilation, or alpha is `"mean"` with a kernel
            binarizer other than ReCU. In training also: a binarizer that clamps gets no tau, an annealed binarizer gets
            no progress, tau is None although `recu_jax.with_tau` set it, or the layer is packed.
        """
        tau, train, progress = self._training(tau, train, progress)
        window = (self.kernel_size,) if isinstance(self.kernel_size, int) else tuple(self.kernel_size)
        x, in_features, groups = inputs, inputs.shape[-1], self.feature_group_count
        check_groups(in_features, self.features, groups)
        shape = (*window, in_features // groups, self.features)
        weights, alpha, offset, parameter = self._weights_and_alpha(shape, tau, progress, train)
        batch_shape = x.shape[: x.ndim - len(window) - 1]
        x = self._promoted(x.reshape(-1, *x.shape[len(batch_shape) :]), parameter)
        y = self._convolved(x, weights, alpha, offset, progress, train)
        if self.use_bias:
            y = y + per_channel(self.param("bias", self.bias_init, (self.features,), self.param_dtype), y)
        return y.reshape(*batch_shape, *y.shape[1:])

    def _convolved(self, x, weights, alpha, offset, progress, train):
        def convolved(activations, weights, alpha):
            return functional.conv_of_signs(
                activations,
                weights,
                alpha,
                strides=self.strides,
                padding=self.padding,
                kernel_dilation=self.kernel_dilation,
                feature_group_count=self.feature_group_count,
                input_dilation=self.input_dilation,
                precision=self.precision,
                binary=self._has_signs(),
            )

        def product(activations):
            y = convolved(activations, weights, alpha)
            if offset is None:
                return y
            # All output channels of a group share the sum of the activations in the window.
            groups = self.feature_group_count
            sums = convolved(activations, jnp.ones((*weights.shape[:-1], groups), weights.dtype), None)
            return y + per_channel(offset, y) * jnp.repeat(sums, self.features // groups, axis=-1)

        return self._of_activations(product, x, x.ndim - 1, progress, train)


class BinaryDense(OneBitLayer):
    """1-bit dense layer over the last axis. The kernel is (in_features, features).

    Attributes and variables are those of `BinaryConv`, without the attributes that only a convolution has.
    `dot_general` and `dot_general_cls` must be None or `lax.dot_general`; any other value raises UserError.
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
    alpha_init: Callable[..., jax.Array] = alpha_init
    alpha: Alpha = "learned"
    binary_weights: bool = True
    kernel_binarizer: WeightBinarizer = weights.ReCU()
    input_binarizer: ActivationBinarizer = activations.ReCU()

    @nn.compact
    def __call__(
        self, inputs: jax.Array, tau: Tau = NOT_GIVEN, train: bool | None = None, progress: Number | None = None
    ) -> jax.Array:
        """Applies the layer to inputs, (..., in_features). Returns (..., features). Arguments as in `BinaryConv`."""
        tau, train, progress = self._training(tau, train, progress)
        shape = (inputs.shape[-1], self.features)
        weights, alpha, offset, parameter = self._weights_and_alpha(shape, tau, progress, train)

        def product(activations):
            y = functional.dense_of_signs(activations, weights, alpha, precision=self.precision)
            return y if offset is None else y + per_channel(offset, y) * activations.sum(-1, keepdims=True)

        y = self._of_activations(product, self._promoted(inputs, parameter), 1, progress, train)
        if self.use_bias:
            y = y + per_channel(self.param("bias", self.bias_init, (self.features,), self.param_dtype), y)
        return y
