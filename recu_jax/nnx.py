"""Provides the layers of `recu_jax.layers` as `flax.nnx` modules, drop-in replacements for `nnx.Conv` and `nnx.Linear`.

    layer = BinaryConv(3, 64, (3, 3), rngs=nnx.Rngs(0))
    y = layer(x, tau=tau)

Each layer holds its variables and a Linen layer, which computes the outputs. Training with ReCU needs `tau`; `tau=None`
turns the clamp off. If a model does not pass tau to its layers, use `recu_jax.set_tau`, which gives tau to all layers.

Like batch norm and dropout, the layers are created in training mode. `model.train()` and `model.eval()` switch the
mode. `nnx.view` switches it too, by `use_running_average` or `deterministic`. The mode changes the gradients and, with
`alpha="mean"`, the outputs.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from recu_jax import layers
from recu_jax.binarizers import ActivationBinarizer, WeightBinarizer, activations, weights
from recu_jax.layers import NOT_GIVEN, PROGRESS, TAU, Alpha, Number
from recu_jax.layers.packed import BITS, SCALE
from recu_jax.ops.conv import ConvSpec, PaddingLike, check_groups

_NO_METADATA: Mapping[str, Any] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class _OfArrays:
    """Adapts a `promote_dtype` of NNX, which takes a tuple of arrays, to Linen, which passes each array separately.

    The class is frozen, so that it has a hash, which NNX requires.
    """

    of_tuple: Callable[..., Any]

    def __call__(self, *arrays: jax.Array | None, dtype: Any) -> Any:
        return self.of_tuple(arrays, dtype=dtype)


class Tau(nnx.Variable):
    """Holds tau or progress from `recu_jax.set_tau`, in the shape of the layer's smallest parameter."""


class PackedKernel(nnx.Param):
    """Holds `kernel_bits` or `kernel_scale` of a packed layer, as `recu_jax.layers.packed` describes them."""


class _BinaryLayer(nnx.Module):
    """Holds what `BinaryConv` and `BinaryDense` share: the mode and the variables. An unused variable is None."""

    def __init__(
        self,
        linen: nn.Module,
        in_features: int,
        kernel_shape: tuple[int, ...],
        kernel_init: Callable[..., jax.Array],
        bias_init: Callable[..., jax.Array],
        alpha_init: Callable[..., jax.Array],
        kernel_metadata: Mapping[str, Any],
        bias_metadata: Mapping[str, Any],
        rngs: nnx.Rngs,
    ):
        def parameter(wanted, init, shape, metadata=_NO_METADATA):
            return nnx.Param(init(rngs.params(), shape, linen.param_dtype), **metadata) if wanted else nnx.data(None)

        self.linen = linen
        self.training = True
        self.in_features, self.out_features = in_features, kernel_shape[-1]
        self.kernel_shape, channels = kernel_shape, kernel_shape[-1:]
        self.kernel = parameter(True, kernel_init, kernel_shape, kernel_metadata)
        self.bias = parameter(linen.use_bias, bias_init, channels, bias_metadata)
        self.alpha = parameter(linen.alpha == "learned", alpha_init, channels)
        # With "mean", alpha depends on tau. Evaluation without tau uses the tau of the last training step.
        self.last_tau = nnx.BatchStat(jnp.ones((), linen.param_dtype)) if linen.alpha == "mean" else nnx.data(None)
        self.tau, self.progress = nnx.data(None), nnx.data(None)
        self.kernel_bits, self.kernel_scale = nnx.data(None), nnx.data(None)
        # The input binarizer's parameters, such as the shift of RSign.
        for name, init in linen.input_binarizer.parameters.items():
            setattr(self, name, parameter(True, init, linen.input_binarizer.parameter_shape(in_features)))

    @property
    def deterministic(self) -> bool:
        """False while the layer trains. `train()` and `eval()` set this property, as in dropout."""
        return not self.training

    @deterministic.setter
    def deterministic(self, value: bool):
        self.training = not value

    use_running_average = deterministic

    def set_view(self, deterministic: bool | None = None, use_running_average: bool | None = None):
        """Sets the mode, training or evaluation, for `nnx.view`. The two arguments are two names of one flag.

        If both are given and one of them is False, the layer trains.

        Args:
          deterministic: False to train, True to evaluate; None changes nothing.
          use_running_average: second name of `deterministic`, as in batch norm.
        """
        said = [flag for flag in (deterministic, use_running_average) if flag is not None]
        if said:
            self.training = not all(said)

    def parameters(self) -> dict[str, nnx.Param]:
        """Returns the layer's parameters by name."""
        named = {"kernel": self.kernel, "alpha": self.alpha, "bias": self.bias}
        named |= {BITS: self.kernel_bits, SCALE: self.kernel_scale}
        named |= {name: getattr(self, name) for name in self.linen.input_binarizer.parameters}
        return {name: variable for name, variable in named.items() if variable is not None}

    def __call__(
        self,
        inputs: jax.Array,
        tau: layers.Tau = NOT_GIVEN,
        train: bool | None = None,
        progress: Number | None = None,
        *,
        out_sharding: Any = None,
    ) -> jax.Array:
        """Applies the layer.

        Args:
          inputs: (..., in_features), for a convolution (*batch, *spatial, in_features).
          tau: in (0.5, 1], a Python number or a scalar array. If it is left out, the layer uses the tau of
            `recu_jax.set_tau`. None turns the clamp off.
          train: whether to train; None uses the mode that `train()` and `eval()` set.
          progress: share of the training that is over, from 0 to 1, for annealed binarizers. None uses the progress of
            `recu_jax.set_tau`.
          out_sharding: sharding of the outputs, as in `nnx.Conv`; None lets the compiler choose.

        Returns:
          (..., out_features) in the dtype of the computation.

        Raises:
          UserError: tau is outside (0.5, 1], alpha is unknown, or alpha is `"mean"` with a binarizer other than ReCU.
            In training also: a binarizer that clamps gets no tau, an annealed binarizer gets no progress, tau is None
            although `recu_jax.set_tau` set it, or the layer is packed.
        """
        train = self.training if train is None else train
        variables = {"params": {name: variable[...] for name, variable in self.parameters().items()}}
        for name, given in ((TAU, self.tau), (PROGRESS, self.progress)):
            if given is not None:
                variables["params"][name] = given[...]
        if self.last_tau is None:
            return _placed(cast(jax.Array, self.linen.apply(variables, inputs, tau, train, progress)), out_sharding)
        variables["batch_stats"] = {"tau": self.last_tau[...]}
        y, changed = self.linen.apply(variables, inputs, tau, train, progress, mutable=["batch_stats"])
        if train:
            self.last_tau[...] = lax.stop_gradient(changed["batch_stats"]["tau"])
        return _placed(y, out_sharding)


def _placed(y: jax.Array, sharding: Any) -> jax.Array:
    return y if sharding is None else jax.sharding.reshard(y, sharding)


class BinaryConv(_BinaryLayer):
    """1-bit convolution over 1, 2 or 3 spatial dimensions, channels last: `recu_jax.BinaryConv` for NNX.

    Variables:

    - `kernel`: nnx.Param, (*kernel_size, in_features / feature_group_count, out_features).
    - `alpha`: nnx.Param, (out_features,), with `alpha="learned"`.
    - `bias`: nnx.Param, (out_features,), with `use_bias`.
    - `last_tau`: nnx.BatchStat, (), with `alpha="mean"`.
    - `tau` and `progress`: `Tau`, after `recu_jax.set_tau`.
    - The parameters that the input binarizer learns, such as `shift`: nnx.Param, (in_features,) or (1,).
    - `kernel_bits` and `kernel_scale`: `PackedKernel`, in place of kernel and alpha, after `recu_jax.pack`.

    Args:
      in_features, out_features: channels.
      kernel_size, strides, padding, input_dilation, kernel_dilation, feature_group_count, use_bias, mask, dtype,
        param_dtype, precision, kernel_init, bias_init, alpha_init, conv_general_dilated, preferred_element_type, alpha,
        binary_weights, kernel_binarizer, input_binarizer: as in `recu_jax.BinaryConv`.
      promote_dtype: as in `nnx.Conv`; it decides the dtype of the computation.
      kernel_metadata, bias_metadata: metadata of the variables, as in `nnx.Conv`.
      rngs: random streams. The initial parameters are drawn from the stream `params`.

    Raises:
      UserError: the channels do not divide into groups, the padding is unknown, or the value of an argument is one that
        `recu_jax.BinaryConv` refuses.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] | None = 1,
        *,
        padding: PaddingLike = "SAME",
        input_dilation: int | Sequence[int] | None = 1,
        kernel_dilation: int | Sequence[int] | None = 1,
        feature_group_count: int = 1,
        use_bias: bool = False,
        mask: Any = None,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: Any = None,
        kernel_init: Callable[..., jax.Array] = layers.kaiming_normal,
        bias_init: Callable[..., jax.Array] = nnx.initializers.zeros_init(),  # noqa: B008  (no state)
        conv_general_dilated: Any = lax.conv_general_dilated,
        promote_dtype: Callable[..., Any] = nnx.nn.dtypes.promote_dtype,
        preferred_element_type: Any = None,
        alpha_init: Callable[..., jax.Array] = layers.BinaryConv.alpha_init,
        kernel_metadata: Mapping[str, Any] = _NO_METADATA,
        bias_metadata: Mapping[str, Any] = _NO_METADATA,
        alpha: Alpha = "learned",
        binary_weights: bool = True,
        kernel_binarizer: WeightBinarizer = weights.ReCU(),
        input_binarizer: ActivationBinarizer = activations.ReCU(),
        rngs: nnx.Rngs,
    ):
        window = (kernel_size,) if isinstance(kernel_size, int) else tuple(kernel_size)
        check_groups(in_features, out_features, feature_group_count)
        # NNX requires a hash of everything that it keeps beside variables. `ConvSpec` holds tuples, which have one.
        spec = ConvSpec.create(window, strides, padding, kernel_dilation, feature_group_count, input_dilation)
        linen = layers.BinaryConv(
            out_features,
            window,
            spec.strides,
            spec.padding,
            spec.input_dilation,
            spec.kernel_dilation,
            feature_group_count,
            use_bias,
            mask,
            dtype,
            param_dtype,
            precision,
            promote_dtype=_OfArrays(promote_dtype),
            conv_general_dilated=conv_general_dilated,
            preferred_element_type=preferred_element_type,
            alpha=alpha,
            binary_weights=binary_weights,
            kernel_binarizer=kernel_binarizer,
            input_binarizer=input_binarizer,
        )
        shape = (*window, in_features // feature_group_count, out_features)
        super().__init__(
            linen, in_features, shape, kernel_init, bias_init, alpha_init, kernel_metadata, bias_metadata, rngs
        )


class BinaryDense(_BinaryLayer):
    """1-bit dense layer over the last axis, drop-in replacement for `nnx.Linear`.

    Arguments and variables are those of `BinaryConv`, without the arguments that only a convolution has. The kernel is
    (in_features, out_features). `dot_general` must keep its default.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        use_bias: bool = False,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: Any = None,
        kernel_init: Callable[..., jax.Array] = layers.kaiming_normal,
        bias_init: Callable[..., jax.Array] = nnx.initializers.zeros_init(),  # noqa: B008  (no state)
        dot_general: Any = lax.dot_general,
        promote_dtype: Callable[..., Any] = nnx.nn.dtypes.promote_dtype,
        preferred_element_type: Any = None,
        alpha_init: Callable[..., jax.Array] = layers.BinaryConv.alpha_init,
        kernel_metadata: Mapping[str, Any] = _NO_METADATA,
        bias_metadata: Mapping[str, Any] = _NO_METADATA,
        alpha: Alpha = "learned",
        binary_weights: bool = True,
        kernel_binarizer: WeightBinarizer = weights.ReCU(),
        input_binarizer: ActivationBinarizer = activations.ReCU(),
        rngs: nnx.Rngs,
    ):
        linen = layers.BinaryDense(
            out_features,
            use_bias,
            dtype,
            param_dtype,
            precision,
            promote_dtype=_OfArrays(promote_dtype),
            dot_general=dot_general,
            preferred_element_type=preferred_element_type,
            alpha=alpha,
            binary_weights=binary_weights,
            kernel_binarizer=kernel_binarizer,
            input_binarizer=input_binarizer,
        )
        shape = (in_features, out_features)
        super().__init__(
            linen, in_features, shape, kernel_init, bias_init, alpha_init, kernel_metadata, bias_metadata, rngs
        )
