"""The layers of `recu_jax.layers` as `flax.nnx` modules, drop-in for `nnx.Conv` and `nnx.Linear`.

    layer = BinaryConv(3, 64, (3, 3), rngs=nnx.Rngs(0))
    y = layer(x, tau=tau)

Each holds its variables and a Linen layer, which is what computes. `tau` may be left out as there; in a model that
passes no tau on, `recu_jax.set_tau` hands it to all layers. Like batch norm and dropout they are born in training mode;
`model.train()` and `model.eval()` switch them, and `nnx.view` under the name of either: `use_running_average` or
`deterministic`. Only the gradients, and the scale `"mean"`, depend on it.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from recu_jax import layers
from recu_jax.conv import ConvSpec, PaddingLike, check_groups

_NO_METADATA: Mapping[str, Any] = MappingProxyType({})


class Tau(nnx.Variable):
    """What `recu_jax.set_tau` gave a layer: tau, in the shape of the layer's smallest parameter."""


class _BinaryLayer(nnx.Module):
    """What both layers share: their variables, of which those that a layer is without are None, and their mode."""

    def __init__(
        self,
        linen: nn.Module,
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
        self.in_features, self.out_features = kernel_shape[-2], kernel_shape[-1]
        channels = kernel_shape[-1:]
        self.kernel = parameter(True, kernel_init, kernel_shape, kernel_metadata)
        self.bias = parameter(linen.use_bias, bias_init, channels, bias_metadata)
        self.alpha = parameter(linen.scale == "learned", alpha_init, channels)
        # The computed scale depends on tau: evaluation without one takes that of the last training step.
        self.last_tau = nnx.BatchStat(jnp.ones((), linen.param_dtype)) if linen.scale == "mean" else nnx.data(None)
        self.tau = nnx.data(None)

    @property
    def deterministic(self) -> bool:
        """False while the layer trains. `train()` and `eval()` set it here as in dropout, and under the next name."""
        return not self.training

    @deterministic.setter
    def deterministic(self, value: bool):
        self.training = not value

    use_running_average = deterministic

    def set_view(self, deterministic: bool | None = None, use_running_average: bool | None = None):
        """For `nnx.view`: either name says whether the layer trains; where they differ, it does.

        Args:
          deterministic: False to train, True to evaluate.
          use_running_average: the same.
        """
        said = [flag for flag in (deterministic, use_running_average) if flag is not None]
        if said:
            self.training = not all(said)

    def parameters(self) -> dict[str, nnx.Param]:
        """The layer's parameters by their names."""
        named = {"kernel": self.kernel, "alpha": self.alpha, "bias": self.bias}
        return {name: variable for name, variable in named.items() if variable is not None}

    def __call__(self, x: jax.Array, tau: jax.Array | float | None = None, train: bool | None = None) -> jax.Array:
        """Applies the layer.

        Args:
          x: (..., in_features), for a convolution (*batch, *spatial, in_features).
          tau: in (0.5, 1], a Python number or a scalar array; None takes that of `recu_jax.set_tau`, and clamps
            nothing where there is none.
          train: whether to train; None follows `train()` and `eval()`.

        Returns:
          (..., out_features) in the computation's dtype.

        Raises:
          UserError: tau outside (0.5, 1], or an unknown scale.
        """
        train = self.training if train is None else train
        if tau is None and self.tau is not None:
            tau = self.tau[...].ravel()[0]
        variables = {"params": {name: variable[...] for name, variable in self.parameters().items()}}
        if self.last_tau is None:
            return cast(jax.Array, self.linen.apply(variables, x, tau, train))
        variables["batch_stats"] = {"tau": self.last_tau[...]}
        y, changed = self.linen.apply(variables, x, tau, train, mutable=["batch_stats"])
        if train:
            self.last_tau[...] = lax.stop_gradient(changed["batch_stats"]["tau"])
        return y


class BinaryConv(_BinaryLayer):
    """1-bit convolution over 1, 2 or 3 spatial dimensions, channels last: `recu_jax.BinaryConv` for NNX.

    Variables: `kernel`, nnx.Param of (*kernel_size, in_features / feature_group_count, out_features); `alpha`,
    nnx.Param of (out_features,), with `scale="learned"`; `bias`, the same, with `use_bias`; `last_tau`, nnx.BatchStat
    of (), with `scale="mean"`; `tau`, `Tau`, after `recu_jax.set_tau`.

    Args:
      in_features, out_features: channels.
      kernel_size, strides, padding, kernel_dilation, feature_group_count, use_bias, dtype, param_dtype, kernel_init,
        bias_init, alpha_init: as in `recu_jax.BinaryConv`; so is what `**options` may hold: `scale`, `standardize`,
        `clamp`, `binary_weights`.
      kernel_metadata, bias_metadata: of their variables, as in `nnx.Conv`.
      rngs: its stream `params` is drawn from.

    Raises:
      UserError: channels that do not divide into groups, an unknown padding.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] | None = 1,
        *,
        padding: PaddingLike = "SAME",
        kernel_dilation: int | Sequence[int] | None = 1,
        feature_group_count: int = 1,
        use_bias: bool = False,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        kernel_init: Callable[..., jax.Array] = layers.kaiming_normal,
        bias_init: Callable[..., jax.Array] = nnx.initializers.zeros_init(),  # noqa: B008  (no state)
        alpha_init: Callable[..., jax.Array] = layers.BinaryConv.alpha_init,
        kernel_metadata: Mapping[str, Any] = _NO_METADATA,
        bias_metadata: Mapping[str, Any] = _NO_METADATA,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        window = (kernel_size,) if isinstance(kernel_size, int) else tuple(kernel_size)
        check_groups(in_features, out_features, feature_group_count)
        # Tuples all through: what NNX keeps beside its variables must have a hash.
        spec = ConvSpec.create(window, strides, padding, kernel_dilation, feature_group_count)
        linen = layers.BinaryConv(
            out_features,
            window,
            spec.strides,
            spec.padding,
            spec.kernel_dilation,
            feature_group_count,
            use_bias,
            dtype,
            param_dtype,
            **options,
        )
        shape = (*window, in_features // feature_group_count, out_features)
        super().__init__(linen, shape, kernel_init, bias_init, alpha_init, kernel_metadata, bias_metadata, rngs)
        self.in_features = in_features


class BinaryDense(_BinaryLayer):
    """1-bit dense layer over the last axis, drop-in for `nnx.Linear`; arguments and variables as in `BinaryConv`."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        use_bias: bool = False,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        kernel_init: Callable[..., jax.Array] = layers.kaiming_normal,
        bias_init: Callable[..., jax.Array] = nnx.initializers.zeros_init(),  # noqa: B008  (no state)
        alpha_init: Callable[..., jax.Array] = layers.BinaryConv.alpha_init,
        kernel_metadata: Mapping[str, Any] = _NO_METADATA,
        bias_metadata: Mapping[str, Any] = _NO_METADATA,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        linen = layers.BinaryDense(out_features, use_bias, dtype, param_dtype, **options)
        shape = (in_features, out_features)
        super().__init__(linen, shape, kernel_init, bias_init, alpha_init, kernel_metadata, bias_metadata, rngs)
