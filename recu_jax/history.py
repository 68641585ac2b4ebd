"""Loss and top-1 of each step of one epoch: fetched from the devices now and then, checked, and kept by checkpoints."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

_NAMES = ("loss", "top1")


class History:
    """The steps of an epoch so far.

    Attributes:
      steps: how many there are.
      unchecked: how many of them were not fetched yet.
    """

    def __init__(self, saved: Mapping[str, Sequence[float]] | None = None):
        """`saved` is what `as_json` gave in the run that is continued; without it the epoch begins."""
        self._values = {name: list(saved[name]) if saved else [] for name in _NAMES}
        self._on_devices: list[Mapping[str, jax.Array]] = []
        self.steps = len(self._values["loss"])
        self.unchecked = 0

    def add(self, metrics: Mapping[str, jax.Array], steps: int) -> None:
        """The metrics of one dispatch, each of (steps,), which may still be on their way."""
        self._on_devices.append(metrics)
        self.steps += steps
        self.unchecked += steps

    def fetch(self) -> int | None:
        """Waits for all steps; the first one whose loss is not finite, counted from the epoch's first, or None."""
        first = len(self._values["loss"])
        for metrics in jax.device_get(self._on_devices):
            for name in _NAMES:
                self._values[name] += np.asarray(metrics[name], np.float64).tolist()
        self._on_devices, self.unchecked = [], 0
        losses = self._values["loss"]
        return next((i for i in range(first, len(losses)) if not math.isfinite(losses[i])), None)

    def last(self) -> dict[str, float]:
        """Loss and top-1 of the last step that was fetched."""
        return {name: self._values[name][-1] for name in _NAMES}

    def loss(self, step: int) -> float:
        """Loss of one fetched step of the epoch."""
        return self._values["loss"][step]

    def means(self) -> dict[str, float]:
        """Means over the fetched steps."""
        return {name: float(np.mean(self._values[name])) for name in _NAMES}

    def as_json(self) -> dict[str, Any]:
        """The fetched steps, for a checkpoint."""
        return {name: list(self._values[name]) for name in _NAMES}
