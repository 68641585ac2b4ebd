"""A run's diagnostics, epoch by epoch: what goes into `diagnostics.jsonl`, and into checkpoints so that it goes on."""

import functools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from recu_jax import distributed
from recu_jax.checkpoint import Found
from recu_jax.data import augment
from recu_jax.diagnostics.activations import activation_windows
from recu_jax.diagnostics.binary_layers import binary_layers, with_binary_weights
from recu_jax.diagnostics.weights import by_layer, measure_weights, remember
from recu_jax.recipe import Recipe
from recu_jax.train import TrainState

# Test images whose activations are looked at: on the digits a batch of 256 would take a tenth of an epoch.
IMAGES = 32


class EpochDiagnostics:
    """Measures the binary layers of a run after each epoch, on the first device of each process.

    The memory from epoch to epoch is part of a checkpoint, so that a run that is continued measures what one never
    stopped does. After a checkpoint from before there were diagnostics the memory begins with its state.
    """

    def __init__(
        self,
        recipe: Recipe,
        image_shape: Sequence[int],
        devices: Sequence[jax.Device],
        state: TrainState,
        found: Found | None = None,
    ):
        """`devices` are those of the run, of all processes.

        `state` is that before the first epoch, or, of a run that is continued, that of the checkpoint `found`.
        """
        image = jax.ShapeDtypeStruct((1, *image_shape), recipe.dtype)
        layers = binary_layers(recipe.model, image)
        self._layers = with_binary_weights(layers)
        self._has_activations = bool(layers)
        if found is None or found.diagnostics is None:
            memory = jax.jit(functools.partial(remember, layers=self._layers))(state.variables)
        else:
            memory = _by_name(found.diagnostics)
        # Where the variables will be: what moved there later would be compiled for twice.
        self._memory = jax.device_put(memory, distributed.local(devices)[0])
        self._weights = jax.jit(functools.partial(measure_weights, layers=self._layers))

        def windows(variables, images):
            x = augment.normalize(images, recipe.mean, recipe.std, recipe.dtype)
            return activation_windows(recipe.model, variables, x)

        self._windows = jax.jit(windows)

    def measure(self, state: TrainState, tau: float, images: np.ndarray) -> dict[str, Any]:
        """After an epoch: `layers`, by name numbers and a histogram, and the `diagnostics_seconds` it took.

        Args:
          state: on the devices.
          tau: of the epoch.
          images: uint8, (batch, height, width, channels); the first `IMAGES` of the test set.
        """
        began = time.monotonic()
        found: dict[str, dict[str, Any]] = {layer.name: {} for layer in self._layers}
        # One copy of what is the same on all devices: measured on all of them it would not be faster.
        variables = jax.tree.map(lambda a: a.addressable_data(0), state.variables)
        windows = self._windows(variables, images) if self._has_activations else {}
        if self._layers:
            measured, self._memory = self._weights(variables, self._memory, np.float32(tau))
            found = by_layer(measured, self._layers)
        for name, share in jax.device_get(windows).items():
            found.setdefault(name, {})["in_window"] = share
        rows = {name: {k: plain(v) for k, v in values.items()} for name, values in found.items()}
        return {"layers": rows, "diagnostics_seconds": plain(time.monotonic() - began)}

    def for_checkpoint(self) -> dict[str, Any]:
        """The memory, as nested dicts of host arrays."""
        return unflatten_dict(jax.device_get(self._memory), sep="/")


def _by_name(nested: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    memory: dict[str, dict[str, np.ndarray]] = {}
    for path, array in flatten_dict(nested).items():
        memory.setdefault("/".join(path[:-1]), {})[path[-1]] = array
    return memory


def plain(value: Any) -> Any:
    """What JSON holds: six digits, lists, and None for what is not finite."""
    if np.ndim(value):
        return np.asarray(value).tolist()
    return float(f"{value:.6g}") if math.isfinite(value) else None
