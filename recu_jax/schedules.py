"""Defines the schedules of tau, of the progress, of the features and of the learning rate (SPEC.md 4), for optax.

A schedule maps a step to a value. All schedules are constant within an epoch, as in the authors' code: a step has the
value of its epoch, e = step // steps_per_epoch. With `steps_per_epoch=1` a schedule maps an epoch to a value.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import optax

from recu_jax.functional import check_tau_range


def _epoch(step, steps_per_epoch: int):
    return jnp.asarray(step // steps_per_epoch, float)


def exponential_tau(
    total_epochs: int, steps_per_epoch: int = 1, tau_min: float = 0.85, tau_max: float = 0.99
) -> optax.Schedule:
    """Returns the exponential schedule of the paper, `tau(e) = A exp(e / E) + B`, with E = `total_epochs`.

    `A = (tau_max - tau_min) / (exp(1) - 1)` and `B = tau_min - A`. At epoch 0, tau is `tau_min`. The formula reaches
    `tau_max` at epoch E, one epoch after the last.

    Raises:
      UserError: `0.5 < tau_min <= tau_max <= 1` does not hold.
    """
    check_tau_range(tau_min, tau_max)
    a = (tau_max - tau_min) / (math.e - 1)
    b = tau_min - a
    return lambda step: a * jnp.exp(_epoch(step, steps_per_epoch) / total_epochs) + b


def linear_tau(
    total_epochs: int, steps_per_epoch: int = 1, tau_min: float = 0.85, tau_max: float = 0.99
) -> optax.Schedule:
    """Returns a linear schedule, for comparison: `tau(e) = tau_min + (tau_max - tau_min) e / E`.

    E, the values at epochs 0 and E, and the errors are as in `exponential_tau`. In all three schedules of tau, tau is
    constant if `tau_min == tau_max`.
    """
    check_tau_range(tau_min, tau_max)
    return lambda step: tau_min + (tau_max - tau_min) * _epoch(step, steps_per_epoch) / total_epochs


def cosine_tau(
    total_epochs: int, steps_per_epoch: int = 1, tau_min: float = 0.85, tau_max: float = 0.99
) -> optax.Schedule:
    """Returns a cosine schedule, for comparison: `tau(e) = tau_max - (tau_max - tau_min) (1 + cos(pi e / E)) / 2`.

    E, the values at epochs 0 and E, and the errors are as in `exponential_tau`.
    """
    check_tau_range(tau_min, tau_max)

    def schedule(step):
        left = (1 + jnp.cos(jnp.pi * _epoch(step, steps_per_epoch) / total_epochs)) / 2
        return tau_max - (tau_max - tau_min) * left

    return schedule


def training_progress(total_epochs: int, steps_per_epoch: int = 1) -> optax.Schedule:
    """Returns the schedule `e / total_epochs`, the share of the training that is over, for annealed binarizers."""
    return lambda step: _epoch(step, steps_per_epoch) / total_epochs


def feature_weight(weight: float, total_epochs: int, steps_per_epoch: int = 1) -> optax.Schedule:
    """Returns the schedule of the weight of `losses.feature_distance`: `weight * max(0, 1 - 2 e / total_epochs)`.

    It falls linearly and is 0 from the middle of the training on. A constant weight starts as well, but the signs then
    go on flipping to the end (`experiments/results/recipe/`).
    """
    return lambda step: weight * jnp.maximum(0.0, 1 - 2 * _epoch(step, steps_per_epoch) / total_epochs)


def _after_warmup(decay, base: float, steps_per_epoch: int, warmup_epochs: int) -> optax.Schedule:
    """Returns the schedule `base (e + 1) / W` for e < W, then `base * decay(e)`, with W = `warmup_epochs`."""

    def schedule(step):
        e = _epoch(step, steps_per_epoch)
        return base * jnp.where(e < warmup_epochs, (e + 1) / max(warmup_epochs, 1), decay(e))

    return schedule


def cosine_learning_rate(
    base: float, total_epochs: int, steps_per_epoch: int = 1, warmup_epochs: int = 5
) -> optax.Schedule:
    """Returns a schedule with a warm-up over W = `warmup_epochs` epochs, then half a cosine down to 0.

    The cosine starts at epoch W - 1, the last of the warm-up, or at epoch 0 if W = 0. It is 0 at `total_epochs`.
    """
    start = max(warmup_epochs - 1, 0)
    span = max(total_epochs - start, 1)
    return _after_warmup(lambda e: (1 + jnp.cos(jnp.pi * (e - start) / span)) / 2, base, steps_per_epoch, warmup_epochs)


def linear_learning_rate(
    base: float, total_epochs: int, steps_per_epoch: int = 1, warmup_epochs: int = 5
) -> optax.Schedule:
    """Returns a schedule with a warm-up over W epochs, then `base * (E - e + s) / (E - s)`, with s = W - 1.

    W is `warmup_epochs` and E is `total_epochs`; s is 0 without a warm-up. The formula reproduces the rates that the
    authors recorded. Its numerator counts the warm-up twice. Therefore each rate after the warm-up is higher by
    `base * s / (E - s)` than on a line down to 0 at epoch E. The formula stays because published results depend on it.
    """
    start = max(warmup_epochs - 1, 0)
    span = max(total_epochs - start, 1)
    return _after_warmup(lambda e: 1 - (e - 2 * start) / span, base, steps_per_epoch, warmup_epochs)


def step_learning_rate(
    base: float, milestones: Sequence[int], steps_per_epoch: int = 1, warmup_epochs: int = 5, factor: float = 0.1
) -> optax.Schedule:
    """Returns a schedule with a warm-up over `warmup_epochs` epochs, then steps down.

    At each epoch in `milestones` the rate is multiplied by `factor`. A milestone within the warm-up takes effect when
    the warm-up ends.
    """

    def decay(e):
        return factor ** sum((e >= m).astype(float) for m in milestones)

    return _after_warmup(decay if milestones else jnp.ones_like, base, steps_per_epoch, warmup_epochs)
