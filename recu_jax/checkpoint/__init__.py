"""Checkpoints of a run, with Orbax; nothing else in the library knows Orbax.

`<workdir>/checkpoints/STEP/` holds `state` (arrays), `record` (config, metrics, digests), `metrics` (what Orbax ranks
by) and, of a run that measures its binary layers, `diagnostics` (what these measures carry from epoch to epoch).
`writing` makes them, `reading` trusts none before its digests are right, `newest` is the way back of a run.
"""

from recu_jax.checkpoint import digests
from recu_jax.checkpoint.newest import Found, newest_good, set_aside
from recu_jax.checkpoint.reading import Damaged, Saved, any_saved, read_best, saved
from recu_jax.checkpoint.writing import METRIC, Checkpoints, save_imported

__all__ = [
    "METRIC",
    "Checkpoints",
    "Damaged",
    "Found",
    "Saved",
    "any_saved",
    "digests",
    "newest_good",
    "read_best",
    "save_imported",
    "saved",
    "set_aside",
]
