"""Defines what `BinaryConv` and `BinaryDense` share: tau and progress of a call, signs, scales, refused arguments."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from recu_jax import functional
from recu_jax.binarizers import weights
from recu_jax.errors import UserError, unknown
from recu_jax.layers.evaluation import weights_in_evaluation
from recu_jax.layers.not_given import NOT_GIVEN, Tau
from recu_jax.layers.packed import BITS, packed_kernel, packed_trains
from recu_jax.ops.bit_kernel import BitKernel
from recu_jax.ops.conv import per_channel

Alpha = Literal["learned", "mean", "none"]
ALPHAS = get_args(Alpha)
# Names of the entries that `recu_jax.with_tau` adds beside a kernel.
TAU, PROGRESS = "recu_tau", "recu_progress"
# Names of the entries that `models.together` adds beside a kernel: the signs and the scale that its binarizer returned,
# or in their place the product of the signs and the output scale.
SIGNS, OWN_SCALE, SCALED_SIGNS = "recu_signs", "recu_scale", "recu_scaled_signs"

# Arguments of Flax's layers that a 1-bit layer refuses, and the reason.
_REPLACES = "a 1-bit layer counts bits and cannot use another product; leave it out, or use Flax's own layer"
_REFUSED = {
    "mask": "a masked weight is 0, but a 1-bit weight is +1 or -1; use feature_group_count, or Flax's own layer",
    **dict.fromkeys(("conv_general_dilated", "conv_general_dilated_cls", "dot_general", "dot_general_cls"), _REPLACES),
}

# Kaiming normal, fan-in, gain sqrt(2), not truncated (SPEC.md 6).
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
alpha_init = nn.initializers.uniform(scale=1.0)


class OneBitLayer(nn.Module):
    """Base class of `BinaryConv` and `BinaryDense`: tau, binarization, output scale, dtype of the computation."""

    features: int

    def __post_init__(self):
        super().__post_init__()
        for name, reason in _REFUSED.items():
            given = getattr(self, name, None)
            # The default of these arguments is None in Linen, and the function of lax in NNX.
            if given is not None and given is not lax.conv_general_dilated and given is not lax.dot_general:
                raise UserError(f"{type(self).__name__}: {name} is given; {reason}")
        wanted = self.preferred_element_type
        if wanted is not None and not jnp.issubdtype(wanted, jnp.floating):
            raise UserError(
                f"{type(self).__name__}: preferred_element_type is {jnp.dtype(wanted).name}; it must be a floating "
                "dtype, as alpha multiplies the outputs"
            )

    def _training(self, tau: Tau, train: bool | None, progress: Any) -> tuple[Any, bool, Any]:
        """Returns tau, train and progress of a call. Takes a missing tau or progress from `recu_jax.with_tau`."""
        kept = self.get_variable("params", TAU).ravel()[0] if self.has_variable("params", TAU) else None
        if train is None:
            train = kept is not None and (tau is None or tau is NOT_GIVEN)
        if train and self.has_variable("params", BITS):
            raise packed_trains("/".join(self.path) or type(self).__name__)
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

    def _promoted(self, x: jax.Array, parameter: jax.Array) -> jax.Array:
        """Returns `x` in the dtype of the computation. The kernel keeps its dtype until it is binarized."""
        return self.promote_dtype(x, parameter, None, dtype=self.dtype)[0]

    def _needs_tau(self) -> bool:
        """Tells whether training needs tau. The initialization needs no tau."""
        used = self.binary_weights or self.alpha == "mean"
        return used and self.kernel_binarizer.needs_tau and not self.is_initializing()

    def _check_tau_is_given(self, tau: Tau, kept: jax.Array | None) -> None:
        """Raises UserError if a training call gets no tau, or if it passes tau=None although `with_tau` set one."""
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

    def _of_activations(
        self, product: Callable[[jax.Array], jax.Array], x: jax.Array, sample_ndim: int, progress: Any, train: bool
    ) -> jax.Array:
        """Binarizes x, (*batch, *sample), and applies `product`, a linear function, to the values of the activations.

        Args:
          product: function of an array like x. It is also called on one sample of ones.
          x: real activations.
          sample_ndim: number of trailing axes that make one sample.
          progress, train: as in a call of the layer.

        Returns:
          `product(scale * signs + offset)`, or `product(signs)` if activations have no scale.
        """
        binarizer = self.input_binarizer
        shape = binarizer.parameter_shape(x.shape[-1])
        parameters = {
            name: self.param(name, init, shape, self.param_dtype) for name, init in binarizer.parameters.items()
        }
        signs = binarizer(x, sample_ndim=sample_ndim, train=train, progress=progress, **parameters)
        signs = signs if self.preferred_element_type is None else signs.astype(self.preferred_element_type)
        if not binarizer.scaled:
            return product(signs)
        # product(scale * signs + offset) = scale * product(signs) + offset * product(ones). Padding stays 0, so the
        # product of ones sums fewer weights at the edges.
        ones = jnp.ones((*[1] * (x.ndim - sample_ndim), *x.shape[-sample_ndim:]), signs.dtype)
        y, of_ones = product(signs), product(ones)
        scale, offset = binarizer.values(**parameters)
        return per_channel(scale, y) * y + per_channel(offset, y) * of_ones

    def _has_signs(self) -> bool:
        """Tells whether the weights of `_weights_and_alpha` are +1 and -1: not latent weights, and not scaled signs."""
        return self.binary_weights and not self.has_variable("params", SCALED_SIGNS)

    def _weights_and_alpha(
        self, shape: tuple[int, ...], tau: Any, progress: Any, train: bool
    ) -> tuple[jax.Array | BitKernel, jax.Array | None, jax.Array | None, jax.Array]:
        """Returns the weights, the scale and the offset with which the layer computes, for a kernel of `shape`.

        Returns:
          The weights; the scale of each output channel, (features,), or None; the offset of each output channel,
          (features,), or None; a parameter, whose dtype decides the dtype of the computation.
        """
        if self.has_variable("params", BITS):
            packed, scale = packed_kernel(self, shape, tau)
            return packed, scale, None, scale
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        if self.has_variable("params", SCALED_SIGNS):
            return self.get_variable("params", SCALED_SIGNS), None, None, kernel
        binarizer = self.kernel_binarizer
        alpha = mean_tau = mean = None
        own: jax.Array | None = None
        if self.alpha == "learned":
            alpha = self.param("alpha", self.alpha_init, (self.features,), self.param_dtype)
        elif self.alpha == "mean":
            mean_tau = self._mean_tau(tau, train)
        elif self.alpha != "none":
            raise unknown("alpha", self.alpha, ALPHAS)
        if not self.binary_weights:
            signs = kernel
        elif self.has_variable("params", SIGNS):
            signs, own = self.get_variable("params", SIGNS), self.get_variable("params", OWN_SCALE)  # own may be None
        elif train:
            signs, own = binarizer(kernel, tau, progress)
        else:
            signs, own, mean = weights_in_evaluation(binarizer, kernel, tau, progress, mean_tau=mean_tau)
        if mean_tau is not None and mean is None:
            mean = functional.mean_alpha(binarizer.clamped(kernel, mean_tau))
        alpha = alpha if mean is None else mean
        offset = None
        if self.binary_weights and binarizer.shifted:
            offset = binarizer.offset(kernel) if alpha is None else alpha * binarizer.offset(kernel)
        if own is not None:
            alpha = own if alpha is None else alpha * own
        return signs, alpha, offset, kernel

    def _mean_tau(self, tau: Any, train: bool) -> Any:
        if not isinstance(self.kernel_binarizer, weights.ReCU):
            raise UserError(
                f"alpha is 'mean', which is ReCU's, and kernel_binarizer is {self.kernel_binarizer}; use "
                "alpha='learned' or 'none'"
            )
        return self._remembered_tau(tau, train)

    def _remembered_tau(self, tau: jax.Array | float | None, train: bool) -> jax.Array | float:
        """Returns the tau for `alpha="mean"`: `tau` if it is given, else 1 in training and the last tau in evaluation.

        The last tau is the tau of the last training step. A training step stores it in `batch_stats`.
        """
        last = self.variable("batch_stats", "tau", lambda: jnp.ones((), self.param_dtype))
        if tau is None:
            return 1.0 if train else last.value
        if train and self.is_mutable_collection("batch_stats"):
            last.value = jnp.asarray(tau, self.param_dtype)
        return tau
