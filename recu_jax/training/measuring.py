"""Measures a run's binary layers after each epoch, for `diagnostics.jsonl`.

Some measures compare the weights with those of earlier epochs. The values that are kept for this are called the memory.
Each checkpoint holds the memory, so a continued run measures the same as a run without a stop.
"""

import functools
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from recu_jax.binary_layer import binary_layers
from recu_jax.data import augment
from recu_jax.diagnostics.activations import measure_inputs
from recu_jax.diagnostics.check import problem
from recu_jax.diagnostics.weights import by_layer, measure_weights, remember
from recu_jax.training import distributed
from recu_jax.training.run import Run, Start
from recu_jax.training.step import TrainState

# Number of images whose activations are measured. On the digits, measuring 256 images would take a tenth of the time of
# an epoch.
IMAGES = 32


class EpochDiagnostics:
    """Measures the binary layers of a run after each epoch, on the first device of each process.

    The class keeps the memory, a `diagnostics.weights.Memory`. If a continued run's checkpoint has no memory, a new one
    starts from the checkpoint's weights.
    """

    def __init__(self, run: Run, start: Start):
        recipe, found = run.recipe, start.resumed
        image = jax.ShapeDtypeStruct((1, *run.feed.image_shape), recipe.dtype)
        layers = binary_layers(recipe.model, image)
        # In stage 1 of two-stage training, only the activations are binary. The layers then have no binary weights to
        # measure.
        self._layers = [layer for layer in layers if layer.binary_weights]
        self._has_activations = bool(layers)
        if found is None or found.diagnostics is None:
            memory = jax.jit(functools.partial(remember, layers=self._layers))(start.state.variables)
        else:
            memory = _by_name(found.diagnostics)
        # Put the memory on the device of the variables. Otherwise the second measurement would compile again.
        self._memory = jax.device_put(memory, distributed.local(run.devices)[0])
        self._weights = jax.jit(functools.partial(measure_weights, layers=self._layers))

        def inputs(variables, images):
            x = augment.normalize(images, recipe.mean, recipe.std, recipe.dtype)
            return measure_inputs(recipe.model, variables, x)

        self._inputs = jax.jit(inputs)

    def measure_inputs(self, state: TrainState, images: np.ndarray) -> dict[str, dict[str, Any]]:
        """Measures the inputs of the binary layers with `diagnostics.measure_inputs`. Returns measures by layer path.

        Args:
          state: on the devices.
          images: uint8, (batch, height, width, channels).
        """
        return jax.device_get(self._inputs(_of_first_device(state), images)) if self._has_activations else {}

    def measure(self, state: TrainState, tau: float, rate: float, images: np.ndarray) -> dict[str, Any]:
        """Measures the binary layers at the end of an epoch.

        Args:
          state: on the devices.
          tau: of the epoch.
          rate: learning rate of the epoch divided by `config.learning_rate`.
          images: uint8, (batch, height, width, channels): at most `IMAGES` images of the test set.

        Returns:
          `layers`: for each layer's path, the measures, and a histogram if the weights are binary. `problems`: the
          texts of `diagnostics.check.problem` by layer path, for the layers that have a problem. `diagnostics_seconds`:
          how long the measurement took, in seconds.
        """
        began = time.monotonic()
        found: dict[str, dict[str, Any]] = {layer.path: {} for layer in self._layers}
        inputs = self.measure_inputs(state, images)
        if self._layers:
            measured, self._memory = self._weights(
                _of_first_device(state), self._memory, tau=np.float32(tau), rate=np.float32(rate)
            )
            found = by_layer(measured, self._layers)
        for name, measures in inputs.items():
            found.setdefault(name, {}).update(measures)
        rows = {name: {k: plain(v) for k, v in values.items()} for name, values in found.items()}
        problems = {name: words for name, measures in inputs.items() if (words := problem(measures))}
        return {"layers": rows, "problems": problems, "diagnostics_seconds": plain(time.monotonic() - began)}

    def for_checkpoint(self) -> dict[str, Any]:
        """Returns the memory as nested dicts of host arrays."""
        return unflatten_dict(jax.device_get(self._memory), sep="/")


def _of_first_device(state):
    """Returns the variables on one device. All devices hold equal variables, so one device can measure them alone."""
    return jax.tree.map(lambda a: a.addressable_data(0), state.variables)


def _by_name(nested: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """Undoes `for_checkpoint`: returns the memory by layer path."""
    memory: dict[str, dict[str, np.ndarray]] = {}
    for path, array in flatten_dict(nested).items():
        memory.setdefault("/".join(path[:-1]), {})[path[-1]] = array
    return memory


def plain(value: Any) -> Any:
    """Converts a number or an array to a value that JSON can hold.

    An array becomes a list of its unchanged numbers. A single number is rounded to six significant digits, and becomes
    None if it is not finite.
    """
    if np.ndim(value):
        return np.asarray(value).tolist()
    return float(f"{value:.6g}") if math.isfinite(value) else None
