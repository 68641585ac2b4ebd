"""Computes digests of a checkpoint's contents. A wrong digest shows damage. Digests ignore the layout of the files."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

_BYTES = 16
# `KEY` is the entry of a record that holds the digests. In this entry, `RECORD` is the name of the digest of the record
# itself, and `DIAGNOSTICS` the name of the digest of the diagnostics.
KEY, RECORD, DIAGNOSTICS = "digests", "record", "diagnostics"


def of_arrays(tree: Any) -> str:
    """Computes the digest of the dtypes, shapes and bytes of a tree's leaves, in their order, at 1 GB/s on one core."""
    digest = hashlib.blake2b(digest_size=_BYTES)
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def of_record(record: Mapping[str, Any]) -> str:
    """Computes the digest of a record, without the entry for this digest."""
    said = {**record, KEY: {k: v for k, v in record[KEY].items() if k != RECORD}}
    return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=_BYTES).hexdigest()


def signed(record: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `record` with the digest of each part of `state` and the digest of the record."""
    # Through JSON, so that the result equals the record as it is read back: with lists in place of tuples.
    said = json.loads(json.dumps({**record, KEY: {name: of_arrays(part) for name, part in state.items()}}))
    said[KEY][RECORD] = of_record(said)
    return said
