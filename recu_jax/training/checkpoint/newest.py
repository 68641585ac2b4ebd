"""Finds the newest undamaged checkpoint, from which a run resumes."""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from recu_jax.errors import UserError
from recu_jax.training.checkpoint.reading import Damaged, SavedCheckpoint, saved

ASIDE = "damaged_checkpoints"


@dataclasses.dataclass(frozen=True)
class ResumePoint:
    """The checkpoint from which a run continues.

    Attributes:
      step: step of the checkpoint.
      record: record of the checkpoint.
      state: training state in the checkpoint, as NumPy arrays.
      diagnostics: the memory of the diagnostics (`training.measuring`); None if the checkpoint has none.
      damaged: the checkpoints that were found damaged, each with the reason. Of checkpoints older than `step`, only the
        records were checked.
    """

    step: int
    record: dict[str, Any]
    state: Any
    diagnostics: dict[str, Any] | None
    damaged: Sequence[tuple[SavedCheckpoint, Damaged]]


def newest_good(workdir: str | pathlib.Path, check: Callable[[dict[str, Any]], None], like: Any) -> ResumePoint | None:
    """Finds the newest undamaged checkpoint of a run. Returns None if there are no checkpoints at all.

    Args:
      workdir: workdir of the run.
      check: called with a checkpoint's record before its state is read. Its exceptions propagate.
      like: the structure of the state, with arrays or `jax.ShapeDtypeStruct` as leaves.

    Raises:
      UserError: there are checkpoints, and all are damaged. They stay in place, because without them the next start
        would train from the beginning.
    """
    good, damaged = None, []
    for checkpoint in reversed(saved(workdir)):
        try:
            record = checkpoint.record
            if good is None:
                check(record)
                good = (checkpoint.step, record, checkpoint.state(like), checkpoint.diagnostics())
        except Damaged as error:
            damaged.append((checkpoint, error))
    if good is not None:
        return ResumePoint(*good, damaged)
    if not damaged:
        return None
    checkpoint, reason = damaged[0]
    many = len(damaged) > 1
    raise UserError(
        f"{f'all {len(damaged)} checkpoints' if many else 'the only checkpoint'} in {checkpoint.folder.parent} "
        f"{'are' if many else 'is'} damaged (step {checkpoint.step}: {reason}); bring one back from a copy, or give "
        "another --workdir to train anew"
    )


def set_aside(found: ResumePoint) -> None:
    """Moves the damaged checkpoints to `<workdir>/damaged_checkpoints`, and names each of them on stderr.

    They must be moved, because the run will save the same steps again, and a checkpoint's folder is named by its step.
    """
    for checkpoint, reason in found.damaged:
        aside = checkpoint.folder.parents[1] / ASIDE
        aside.mkdir(exist_ok=True)
        names = (aside / (f"{checkpoint.step}.{i}" if i else f"{checkpoint.step}") for i in range(1 << 20))
        target = next(name for name in names if not name.exists())
        checkpoint.folder.rename(target)
        print(
            f"the checkpoint of step {checkpoint.step} is damaged: {reason}; moved to {target}, using that of step "
            f"{found.step}",
            file=sys.stderr,
            flush=True,
        )
