"""Reads `.recu` files with NumPy alone, for interpreters without recu_jax. docs/deploy.md describes the layout."""

import json
import pathlib

import numpy as np


def read(path):
    """Returns the operations of a file, each with its arrays by role."""
    data = pathlib.Path(path).read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    index = json.loads(data[8:end])
    operations = json.loads(index.pop("__metadata__")["recu"])["operations"]
    arrays = {}
    for name, entry in index.items():
        first, last = (end + offset for offset in entry["data_offsets"])
        dtype = {"F32": "<f4", "I32": "<i4", "U32": "<u4"}[entry["dtype"]]
        arrays[name] = np.frombuffer(data[first:last], dtype).reshape(entry["shape"])
    return [a | {"arrays": {role: arrays[name] for role, name in a.get("arrays", {}).items()}} for a in operations]


def bits(words, channels):
    """Returns words as bits, (..., channels)."""
    return np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=-1, bitorder="little")[..., :channels]
