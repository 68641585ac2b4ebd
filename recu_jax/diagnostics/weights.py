"""The weights of every binary layer, measured in one function of the variables.

A weight is **dead** after an epoch if both hold:

- its sign has not flipped for `DEAD_EPOCHS` epochs, this one included;
- this epoch moved it by less than `DEAD_UPDATE` b: `|w1 - w1 an epoch ago| < DEAD_UPDATE * b`, where w1 are the
  standardised latent weights and b is their Laplace scale now.

So in the first `DEAD_EPOCHS - 1` epochs none is dead. What lies an epoch or more back is carried in a `Memory`.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from recu_jax import functional
from recu_jax.diagnostics import measures, theory
from recu_jax.diagnostics.binary_layers import BinaryLayer, layers_in, leaf

DEAD_EPOCHS = 5
DEAD_UPDATE = 0.01
# Where the count of epochs without a flip stops.
_MOST_EPOCHS = 255
_AS_THEY_ARE = ("scale", "quantile", "histogram", "quantization_error", "flipped", "dead")

# By name of the layer: `weights`, w1 after the last epoch, float32 of the kernel's shape, and `unflipped`, the epochs
# since each weight's sign flipped, uint8.
Memory = dict[str, dict[str, jax.Array]]


def remember(variables: Mapping[str, Any], layers: Sequence[BinaryLayer] | None = None) -> Memory:
    """The memory before the first epoch that is measured."""
    memory = {}
    for layer in layers_in(variables) if layers is None else layers:
        weights = layer.standardized(leaf(variables["params"], layer, "kernel")).astype(jnp.float32)
        memory[layer.name] = {"weights": weights, "unflipped": jnp.zeros(weights.shape, jnp.uint8)}
    return memory


def measure_weights(
    variables: Mapping[str, Any],
    memory: Memory,
    tau: jax.Array | float | None = None,
    layers: Sequence[BinaryLayer] | None = None,
    *,
    dead_epochs: int = DEAD_EPOCHS,
    dead_update: float = DEAD_UPDATE,
) -> tuple[dict[str, jax.Array], Memory]:
    """Measures every binary layer after an epoch; a pure function, to be jitted.

    Args:
      variables: of a model that holds our layers.
      memory: what the epoch before, or `remember`, gave.
      tau: of the epoch that ended; None, and layers that do not clamp, count as 1.
      layers: as `binary_layers` gives them; None finds them in the variables, see `layers_in`.
      dead_epochs: at least 1 and at most 255; with
      dead_update: what makes a weight dead, see above.

    Returns:
      By name of the measure arrays of (layers,), in the order of `layers`, and the memory for the next epoch:

      - `clipped`, `clipped_theory`: share of weights beyond +-Q(tau).
      - `dead`: share of dead weights.
      - `flipped`: flip ratio, the share of weights with another sign than an epoch ago.
      - `scale`: b; `laplace_distance`: how far the weights are from the Laplace fit (`measures.laplace_distance`).
      - `quantile`: Q(tau), infinite where nothing is clamped.
      - `quantization_error`, `quantization_error_theory`, `entropy`, `entropy_theory`: of the clamped weights.
      - `alpha_min`, `alpha_mean`, `alpha_max`: of the layer's scale; NaN where it has none.
      - `histogram`: int32, (layers, measures.BINS), of w1 / b.
    """
    layers = layers_in(variables) if layers is None else layers
    passed, kept = {}, {}
    for group in _alike(variables, layers):
        stack = jnp.stack([leaf(variables["params"], layer, "kernel") for layer in group])
        before = _stacked([memory[layer.name] for layer in group])
        of_one = functools.partial(_pass_over, group[0], tau=tau, dead_epochs=dead_epochs, dead_update=dead_update)
        results = jax.vmap(of_one)(stack, before)
        for i, layer in enumerate(group):
            passed[layer.name], kept[layer.name] = jax.tree.map(lambda a, i=i: a[i], results)
    together = _stacked([passed[layer.name] for layer in layers])
    alpha = [_alpha(variables, layer, passed[layer.name]["quantile"]) for layer in layers]
    return jax.vmap(_derive)(together) | _stacked(alpha), kept


def by_layer(measured: Mapping[str, jax.Array], layers: Sequence[BinaryLayer]) -> dict[str, dict[str, Any]]:
    """What `measure_weights` gave, on the host: by layer and name of the measure, numbers and NumPy arrays."""
    measured = jax.device_get(measured)
    return {layer.name: {name: values[i] for name, values in measured.items()} for i, layer in enumerate(layers)}


def _alike(variables, layers):
    """Layers of the same shape and attributes: measured together, which compiles in a fraction of the time."""
    groups: dict[Any, list[BinaryLayer]] = {}
    for layer in layers:
        kernel = leaf(variables["params"], layer, "kernel")
        attributes = (layer.standardize, layer.b, layer.centre, layer.clamp)
        groups.setdefault((kernel.shape, kernel.dtype, attributes), []).append(layer)
    return groups.values()


def _pass_over(layer, kernel, before, tau, dead_epochs, dead_update):
    """What needs the weights one by one: the ingredients of `_derive`, and the memory."""
    weights = layer.standardized(kernel)
    tau = jnp.asarray(tau if layer.clamp and tau is not None else 1.0, weights.dtype)
    scale = functional.laplace_scale(weights)
    bound = functional.laplace_quantile(scale, tau)
    now = weights.astype(jnp.float32)
    flips = functional.sign(now) != functional.sign(before["weights"])
    unflipped = jnp.where(flips, 0, jnp.minimum(before["unflipped"], _MOST_EPOCHS - 1) + 1).astype(jnp.uint8)
    still = jnp.abs(now - before["weights"]) < dead_update * scale
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
        "dead": ((unflipped >= dead_epochs) & still).mean(),
    }
    return passed, {"weights": now, "unflipped": unflipped}


def _derive(passed):
    """The diagnostics of one layer; of all layers at once, or compilation would take seconds."""
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
    if layer.scale == "learned":
        alpha = leaf(variables["params"], layer, "alpha")
    elif layer.scale == "mean":
        weights = layer.standardized(leaf(variables["params"], layer, "kernel"))
        alpha = functional.computed_alpha(jnp.clip(weights, -bound, bound))
    else:
        alpha = jnp.full(1, jnp.nan)
    return {"alpha_min": alpha.min(), "alpha_mean": alpha.mean(), "alpha_max": alpha.max()}
