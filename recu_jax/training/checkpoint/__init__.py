"""Writes and reads the checkpoints of a run. Only this package uses Orbax.

`<workdir>/checkpoints/STEP/` holds:

- `state`: the arrays of the training state.
- `record`: config, metrics and digests.
- `metrics`: the number by which Orbax ranks checkpoints.
- `diagnostics`: the memory of the diagnostics, that is, the values with which the next measurement is compared. Only
  runs that measure their binary layers have this folder.

`writing` writes checkpoints. `reading` reads them and checks their digests. `newest` finds the checkpoint from which
a run continues.
"""

from recu_jax.training.checkpoint import digests
from recu_jax.training.checkpoint.newest import ResumePoint, newest_good, set_aside
from recu_jax.training.checkpoint.reading import Damaged, SavedCheckpoint, any_saved, read_best, saved
from recu_jax.training.checkpoint.writing import METRIC, Checkpoints, save_imported

__all__ = [
    "METRIC",
    "Checkpoints",
    "Damaged",
    "ResumePoint",
    "SavedCheckpoint",
    "any_saved",
    "digests",
    "newest_good",
    "read_best",
    "save_imported",
    "saved",
    "set_aside",
]
