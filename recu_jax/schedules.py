"""Schedules of tau, of the progress of annealed binarizers and of the learning rate (SPEC.md section 4), as optax
schedules: step -> value.

All are constant within an epoch, as the authors' are: with e = step // steps_per_epoch the value is that of epoch e.
Pass `steps_per_epoch=1` to read a schedule by epoch.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import optax

from recu_jax.errors import UserError


def _epoch(step, steps_per_epoch: int):
    return jnp.asarray(step // steps_per_epoch, float)


def exponential_tau(
    total_epochs: int, steps_per_epoch: int = 1, tau_min: float = 0.85, tau_max: float = 0.99
) -> optax.Schedule:
    """`tau(e) = A exp(e / E) + B` with `A = (tau_max - tau_min) / (e1 - 1)` and `B = tau_min - A`.

    Starts at `tau_min` and would reach `tau_max` at epoch E = `total_epochs`.

    Raises:
      UserError: not 0.5 < tau_min <= tau_max <= 1.
    """
    _check_tau_range(tau_min, tau_max)
    a = (tau_max - tau_min) / (math.e - 1)
    b = tau_min - a
    return lambda step: a * jnp.exp(_epoch(step, steps_per_epoch) / total_epochs) + b


def linear_tau(
    total_epochs: int, steps_per_epoch: int = 1, tau_min: float = 0.85, tau_max: float = 0.99
) -> optax.Schedule:
    """`tau(e) = tau_min + (tau_max - tau_min) e / E`, for comparison; ends and errors as `exponential_tau`.

    With `tau_min == tau_max` it, like the others, is a fixed tau.
    """
    _check_tau_range(tau_min, tau_max)
    return lambda step: tau_min + (tau_max - tau_min) * _epoch(step, steps_per_epoch) / total_epochs


def cosine_tau(
    total_epochs: int, steps_per_epoch: int = 1, tau_min: float = 0.85, tau_max: float = 0.99
) -> optax.Schedule:
    """`tau(e) = tau_max - (tau_max - tau_min) (1 + cos(pi e / E)) / 2`; ends and errors as `exponential_tau`."""
    _check_tau_range(tau_min, tau_max)

    def schedule(step):
        left = (1 + jnp.cos(jnp.pi * _epoch(step, steps_per_epoch) / total_epochs)) / 2
        return tau_max - (tau_max - tau_min) * left

    return schedule


def _check_tau_range(tau_min, tau_max):
    if not 0.5 < tau_min <= tau_max <= 1.0:
        raise UserError(
            f"tau_min is {tau_min} and tau_max is {tau_max}; they must satisfy 0.5 < tau_min <= tau_max <= 1"
        )


def training_progress(total_epochs: int, steps_per_epoch: int = 1) -> optax.Schedule:
    """`e / E`, the share of the training that is over: what `binarizers.Annealed` has beside tau."""
    return lambda step: _epoch(step, steps_per_epoch) / total_epochs


def _after_warmup(decay, base: float, steps_per_epoch: int, warmup_epochs: int) -> optax.Schedule:
    """`base (e + 1) / W` for e < W, then `base * decay(e)`."""

    def schedule(step):
        e = _epoch(step, steps_per_epoch)
        return base * jnp.where(e < warmup_epochs, (e + 1) / max(warmup_epochs, 1), decay(e))

    return schedule


def cosine_learning_rate(
    base: float, total_epochs: int, steps_per_epoch: int = 1, warmup_epochs: int = 5
) -> optax.Schedule:
    """Warm-up over W epochs, then half a cosine from epoch W - 1 to 0 at epoch E."""
    start = max(warmup_epochs - 1, 0)
    span = max(total_epochs - start, 1)
    return _after_warmup(lambda e: (1 + jnp.cos(jnp.pi * (e - start) / span)) / 2, base, steps_per_epoch, warmup_epochs)


def linear_learning_rate(
    base: float, total_epochs: int, steps_per_epoch: int = 1, warmup_epochs: int = 5
) -> optax.Schedule:
    """Warm-up over W epochs, then `(E - e + s) / (E - s)` with s = W - 1 (0 without warm-up).

    The authors' recorded rates count the warm-up twice in the numerator, so that the rate steps up by `s / (E - s)`
    after the warm-up and ends as far above 0; kept, as published results stand on it.
    """
    start = max(warmup_epochs - 1, 0)
    span = max(total_epochs - start, 1)
    return _after_warmup(lambda e: 1 - (e - 2 * start) / span, base, steps_per_epoch, warmup_epochs)


def step_learning_rate(
    base: float, milestones: Sequence[int], steps_per_epoch: int = 1, warmup_epochs: int = 5, factor: float = 0.1
) -> optax.Schedule:
    """Warm-up over W epochs; the rate is multiplied by `factor` at each of the epochs `milestones`."""

    def decay(e):
        return factor ** sum((e >= m).astype(float) for m in milestones)

    return _after_warmup(decay if milestones else jnp.ones_like, base, steps_per_epoch, warmup_epochs)
