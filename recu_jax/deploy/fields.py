"""Reads and checks the fields of one operation of a file. `graph` describes operations."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recu_jax.deploy.container import is_count
from recu_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Value:
    """The kind and the shape of an operation's output for one image.

    Attributes:
      kind: "real" (float32), "bits" (packed signs) or "sums" (int32).
      shape: (height, width, channels) or (features,).
    """

    kind: str
    shape: tuple[int, ...]


class Fields:
    """The fields of one operation.

    Every method checks the field that it reads, and raises UserError if the field is wrong. `finish` raises UserError
    if the operation has a field that was never read.

    Attributes:
      entry: the operation in the file.
      inputs: the values that the operation takes.
      attributes: the attributes read so far.
      arrays: the arrays read so far, by role.
    """

    def __init__(self, entry: Mapping[str, Any], inputs: list[Value], arrays: Mapping[str, np.ndarray]):
        self.entry, self.inputs, self._all = entry, inputs, arrays
        names = entry.get("arrays", {})
        if not isinstance(names, dict):
            raise UserError("its arrays are no object")
        self._names = dict(names)
        self._left = set(entry) - {"op", "inputs", "arrays"}
        self.attributes: dict[str, Any] = {}
        self.arrays: dict[str, np.ndarray] = {}

    def input(self, *kinds: str, rank: int | None = None) -> Value:
        """Returns the only input. Its kind must be one of `kinds`. Its shape must have `rank` dimensions; None: any."""
        if len(self.inputs) != 1:
            raise UserError(f"it has {len(self.inputs)} inputs instead of 1")
        return self.inputs_like(*kinds, rank=rank)[0]

    def inputs_like(self, *kinds: str, rank: int | None = None) -> list[Value]:
        for value in self.inputs:
            if value.kind not in kinds:
                raise UserError(f"it takes {' or '.join(kinds)}, and its input is {value.kind}")
            if rank is not None and len(value.shape) != rank:
                raise UserError(f"its input is {value.shape}; it takes {rank} dimensions")
        return self.inputs

    def array(self, role: str, dtype: Any, shape: Sequence[int | None]) -> np.ndarray:
        """Reads the array of a role. It must have `dtype` and `shape`. None in `shape` allows any size but 0."""
        name = self._names.pop(role, None)
        if not isinstance(name, str) or name not in self._all:
            raise UserError(f"its {role} is {str(name)[:80]!r}, which is none of the file's arrays")
        array = self._all[name]
        fits = len(array.shape) == len(shape) and all(
            have >= 1 if want is None else have == want for have, want in zip(array.shape, shape, strict=True)
        )
        if array.dtype != dtype or not fits:
            want = ", ".join("any" if n is None else str(n) for n in shape)
            raise UserError(f"its {role} is {array.dtype} {array.shape}; it must be {np.dtype(dtype)} ({want})")
        self.arrays[role] = array
        return array

    def counts(self, name: str, length: int, low: int, high: int) -> tuple[int, ...]:
        """Reads an attribute that must be a list of `length` integers in [low, high]."""
        found = self._take(name)
        good = isinstance(found, list) and len(found) == length
        if not good or not all(is_count(n) and low <= n <= high for n in found):
            raise UserError(f"its {name} is {str(found)[:80]}; it must be {length} integers in [{low}, {high}]")
        self.attributes[name] = tuple(found)
        return self.attributes[name]

    def reals(self, name: str, length: int) -> tuple[float, ...]:
        found = self._take(name)
        good = isinstance(found, list) and len(found) == length
        if not good or not all(type(x) in (int, float) and abs(x) < 1e30 for x in found):
            raise UserError(f"its {name} is {str(found)[:80]}; it must be {length} numbers")
        self.attributes[name] = tuple(float(x) for x in found)
        return self.attributes[name]

    def padding(self, window: Sequence[int]) -> None:
        """Reads the attribute `padding`, 4 integers, and stores it as ((top, bottom), (left, right)).

        Padding must be smaller than the window. Otherwise an output could depend on no pixel.
        """
        flat = self.counts("padding", 4, 0, max(window) - 1)
        if max(flat[:2]) >= window[0] or max(flat[2:]) >= window[1]:
            raise UserError(f"its padding is {flat}, as much as its window {window}")
        self.attributes["padding"] = (flat[:2], flat[2:])

    def _take(self, name):
        self._left.discard(name)
        return self.entry.get(name)

    def finish(self) -> None:
        extra = sorted(map(str, self._left)) + sorted(map(str, self._names))
        if extra:
            raise UserError(f"it has {extra[0][:80]!r}, which it does not take")
