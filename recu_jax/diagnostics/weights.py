"""Measures the weights of every binary layer.

A weight is **dead** after an epoch if both hold:

- Its sign has not flipped for `DEAD_EPOCHS` epochs, including this one.
- At the pace of this epoch, scaled to the largest learning rate of the run, it would need more than `DEAD_CROSSING`
  epochs to reach 0: `DEAD_CROSSING * |w1 - w1 an epoch ago| < share * |w1|`. w1 are the latent weights after the
  standardization of the layer's kernel binarizer. share is the learning rate of this epoch divided by the largest
  learning rate of the run.

The share is in the condition because a schedule may lower the learning rate to 0. All weights then stop, but they are
not dead. Where the share is below `LEAST_RATE`, weights move too little for this test, and float32 rounds their steps
away. In such epochs a dead weight stays dead until it flips, and no other weight becomes dead.

No weight is dead in the first `DEAD_EPOCHS - 1` epochs. A `Memory` carries the values of earlier epochs.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from recu_jax import functional
from recu_jax.binarizers import WeightBinarizer
from recu_jax.binary_layer import BinaryLayer
from recu_jax.diagnostics import measures, theory
from recu_jax.ops.reductions import wide

DEAD_EPOCHS = 5
DEAD_CROSSING = 100
LEAST_RATE = 0.01
# Largest count of epochs without a flip, because the count is uint8.
_MOST_EPOCHS = 255
_AS_THEY_ARE = ("scale", "quantile", "histogram", "quantization_error", "flipped", "dead")

# Three arrays of the kernel's shape for each layer path. `weights`: w1 after the last epoch, float32. `unflipped`:
# epochs since each weight's sign flipped, uint8. `dead`: whether each weight was dead after the last epoch, bool.
Memory = dict[str, dict[str, jax.Array]]


def remember(variables: Mapping[str, Any], layers: Sequence[BinaryLayer]) -> Memory:
    """Returns the memory for the first call of `measure_weights`.

    Args:
      variables: variables of the model before the first epoch that is measured.
      layers: result of `binary_layers`.
    """
    memory = {}
    for layer in layers:
        weights = _standardized(layer.kernel_binarizer, layer.leaf(variables["params"], "kernel")).astype(jnp.float32)
        unflipped, dead = jnp.zeros(weights.shape, jnp.uint8), jnp.zeros(weights.shape, bool)
        memory[layer.path] = {"weights": weights, "unflipped": unflipped, "dead": dead}
    return memory


def measure_weights(
    variables: Mapping[str, Any],
    memory: Memory,
    layers: Sequence[BinaryLayer],
    tau: jax.Array | float | None = None,
    rate: jax.Array | float = 1.0,
    *,
    dead_epochs: int = DEAD_EPOCHS,
    dead_crossing: float = DEAD_CROSSING,
) -> tuple[dict[str, jax.Array], Memory]:
    """Measures every binary layer after an epoch. The function is pure and can be jitted.

    Args:
      variables: variables of a model with layers of recu_jax.
      memory: result of `remember`, or of the previous epoch's call.
      layers: result of `binary_layers`; each layer is measured with its own kernel binarizer.
      tau: tau of the epoch that ended; None means 1. A binarizer that does not clamp is measured with tau = 1.
      rate: learning rate of this epoch divided by the largest learning rate of the run.
      dead_epochs: epochs without a flip that make a weight dead, from 1 to 255.
      dead_crossing: a dead weight would need more than this number of epochs, at the largest learning rate, to reach 0.

    Returns:
      The measures, and the memory for the next epoch. Each measure is an array with one entry per layer, in the order
      of `layers`. Names that end in `_theory` are the values that `theory` predicts:

      - `clipped`, `clipped_theory`: share of weights beyond +-Q(tau).
      - `dead`: share of dead weights.
      - `flipped`: flip ratio, the share of weights whose sign differs from the previous epoch.
      - `scale`: b, the Laplace scale fitted to the standardized weights w1.
      - `laplace_distance`: distance of the weights from the Laplace fit (`measures.laplace_distance`).
      - `quantile`: Q(tau), infinite where nothing is clamped.
      - `quantization_error`, `quantization_error_theory`: of the clamped weights.
      - `entropy`, `entropy_theory`: of the clamped weights, in nats.
      - `alpha_min`, `alpha_mean`, `alpha_max`: of alpha over the output channels; NaN with `alpha="none"`.
      - `histogram`: int32, (layers, measures.BINS), of w1 / b.
    """
    passed, kept = {}, {}
    for group in _alike(variables, layers):
        stack = jnp.stack([layer.leaf(variables["params"], "kernel") for layer in group])
        before = _stacked([memory[layer.path] for layer in group])
        of_one = functools.partial(
            _pass_over,
            group[0].kernel_binarizer,
            tau=tau,
            rate=rate,
            dead_epochs=dead_epochs,
            dead_crossing=dead_crossing,
        )
        results = jax.vmap(of_one)(stack, before)
        for i, layer in enumerate(group):
            passed[layer.path], kept[layer.path] = jax.tree.map(lambda a, i=i: a[i], results)
    together = _stacked([passed[layer.path] for layer in layers])
    alpha = [_alpha(variables, layer, passed[layer.path]["quantile"]) for layer in layers]
    return jax.vmap(_derive)(together) | _stacked(alpha), kept


def by_layer(measured: Mapping[str, jax.Array], layers: Sequence[BinaryLayer]) -> dict[str, dict[str, Any]]:
    """Moves the result of `measure_weights` to the host: {layer path: {measure: number or NumPy array}}."""
    measured = jax.device_get(measured)
    return {layer.path: {name: values[i] for name, values in measured.items()} for i, layer in enumerate(layers)}


def _alike(variables, layers):
    """Groups layers of the same shape and binarizer. Measuring a group at once compiles much faster."""
    groups: dict[Any, list[BinaryLayer]] = {}
    for layer in layers:
        kernel = layer.leaf(variables["params"], "kernel")
        groups.setdefault((kernel.shape, kernel.dtype, layer.kernel_binarizer), []).append(layer)
    return groups.values()


def _standardized(binarizer: WeightBinarizer, kernel: jax.Array) -> jax.Array:
    """Returns the real weights whose signs the binarizer takes, before any clamp, in float32 or wider."""
    return binarizer.standardized(wide(kernel))


def _pass_over(binarizer, kernel, before, tau, rate, dead_epochs, dead_crossing):
    """Computes what needs the weights themselves: the inputs of `_derive`, and the memory for the next epoch."""
    weights = _standardized(binarizer, kernel)
    scale = functional.laplace_scale(weights)
    bound = binarizer.bound(weights, tau)
    # Without a clamp the theory of tau = 1 applies.
    tau = jnp.where(jnp.isinf(bound), 1.0, 1.0 if tau is None else tau).astype(weights.dtype)
    now = weights.astype(jnp.float32)
    flips = functional.sign(now) != functional.sign(before["weights"])
    unflipped = jnp.where(flips, 0, jnp.minimum(before["unflipped"], _MOST_EPOCHS - 1) + 1).astype(jnp.uint8)
    slow = dead_crossing * jnp.abs(now - before["weights"]) < rate * jnp.abs(now)
    dead = ~flips & jnp.where(rate < LEAST_RATE, before["dead"], slow & (unflipped >= dead_epochs))
    passed = {
        "tau": tau,
        "scale": scale,
        "quantile": bound,
        "below": (weights < -bound).sum(),
        "above": (weights > bound).sum(),
        "largest": jnp.abs(weights).max(),
        "histogram": measures.histogram(weights, scale),
        "quantization_error": measures.quantization_error(weights, scale, bound),
        "flipped": flips.mean(),
        "dead": dead.mean(),
    }
    return passed, {"weights": now, "unflipped": unflipped, "dead": dead}


def _derive(passed):
    """Computes the diagnostics of one layer. `jax.vmap` maps it over all layers, which saves seconds of compilation."""
    counts, scale, tau = passed["histogram"], passed["scale"], passed["tau"]
    clipped = (passed["below"], passed["above"])
    return {name: passed[name] for name in _AS_THEY_ARE} | {
        "clipped": sum(clipped) / counts.sum(),
        "clipped_theory": theory.clipped_share(tau),
        "laplace_distance": measures.laplace_distance(counts),
        "quantization_error_theory": theory.quantization_error(scale, tau),
        "entropy": measures.entropy(counts, scale, passed["quantile"], passed["largest"], clipped),
        "entropy_theory": theory.entropy(scale, tau),
    }


def _stacked(trees):
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *trees)


def _alpha(variables, layer, bound):
    if layer.alpha == "learned":
        alpha = layer.leaf(variables["params"], "alpha")
    elif layer.alpha == "mean":
        weights = _standardized(layer.kernel_binarizer, layer.leaf(variables["params"], "kernel"))
        alpha = functional.mean_alpha(jnp.clip(weights, -bound, bound))
    else:
        alpha = jnp.full(1, jnp.nan)
    return {"alpha_min": alpha.min(), "alpha_mean": alpha.mean(), "alpha_max": alpha.max()}
