"""What tells a checkpoint from a damaged one: a digest of its contents, whatever files they lie in."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

_BYTES = 16
# The place of the digests in a record, and among them that of the record itself and that of what stands beside the
# state.
KEY, RECORD, DIAGNOSTICS = "digests", "record", "diagnostics"


def of_arrays(tree: Any) -> str:
    """Digest of the leaves of a tree, in their order: dtypes, shapes and every bit. 1 GB/s on one core."""
    digest = hashlib.blake2b(digest_size=_BYTES)
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def of_record(record: Mapping[str, Any]) -> str:
    """Digest of what a record says, its own digest left out."""
    said = {**record, KEY: {k: v for k, v in record[KEY].items() if k != RECORD}}
    return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=_BYTES).hexdigest()


def signed(record: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """`record` with the digests of each part of `state`, and of itself."""
    said = json.loads(json.dumps({**record, KEY: {name: of_arrays(part) for name, part in state.items()}}))
    said[KEY][RECORD] = of_record(said)
    return said
