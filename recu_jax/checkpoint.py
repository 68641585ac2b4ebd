"""Checkpoints of a run, with Orbax; nothing else in the library knows Orbax."""

import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from recu_jax.errors import UserError
from recu_jax.train import TrainState

METRIC = "test_top1"
FOLDER = "checkpoints"
# What a model is made of; the rest of a state belongs to its training.
COLLECTIONS = ("params", "batch_stats")


class Checkpoints:
    """The checkpoints in `<workdir>/checkpoints`: the newest two and the best by test top-1.

    A checkpoint is named by its step and holds the state and a record: the config and the metrics of its epoch. It
    is written aside and renamed when complete, so that one that is there is whole. Saving goes on in the background;
    `close` waits for it. Arrays are written from the host, so that any number of devices can read them.
    """

    def __init__(self, workdir: str | pathlib.Path):
        # Not best_fn with max_to_keep: that deletes the newest checkpoint when it is not the best.
        policy = managers.AnyPreservationPolicy(
            [managers.LatestN(n=2), managers.BestN(get_metric_fn=lambda m: m[METRIC], n=1)]
        )
        self._manager = ocp.CheckpointManager(
            pathlib.Path(workdir).absolute() / FOLDER,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy, best_fn=lambda m: m[METRIC], enable_async_checkpointing=True
            ),
        )

    def latest(self) -> int | None:
        """Step of the newest checkpoint; None if there is none."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """Step of the checkpoint with the best test top-1; None if there is none."""
        return self._manager.best_step()

    def save(self, state: TrainState, config: dict[str, Any], metrics: dict[str, Any]) -> None:
        """Saves `state` under its step. Every process must call it."""
        host_state = jax.device_get(state)
        self._save(int(host_state.step), host_state, {"config": config, "metrics": metrics})

    def save_variables(self, variables: Mapping[str, Any], record: dict[str, Any]) -> None:
        """Saves the variables of a model that was not trained here, as step 0."""
        self._save(0, {"step": np.zeros((), np.int32), **jax.device_get(dict(variables))}, record)

    def _save(self, step, state, record):
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record)),
            metrics={METRIC: record["metrics"][METRIC]},
        )

    def record(self, step: int) -> dict[str, Any]:
        """`{"config": ..., "metrics": ...}` of a checkpoint."""
        return self._manager.restore(step, args=ocp.args.Composite(record=ocp.args.JsonRestore()))["record"]

    def restore(self, step: int, like: TrainState | None = None) -> Any:
        """State of a checkpoint, as NumPy arrays.

        Args:
          step: which one.
          like: arrays or shapes of a state of the same structure, which the result takes; None gives nested dicts
            and lists.
        """
        template = None if like is None else jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), like)
        return self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(template)))["state"]

    def restore_variables(self, step: int) -> dict[str, Any]:
        """`{"params": ..., "batch_stats": ...}` of a checkpoint, as NumPy arrays; nothing else of it is read."""
        folder = self._manager.directory / str(step) / "state"
        # Not the manager: it reads a state one way only, and whole.
        handler = ocp.PyTreeCheckpointHandler()
        saved = handler.metadata(folder).tree
        wanted = {k: saved[k] for k in COLLECTIONS if saved.get(k)}
        kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        found = handler.restore(
            folder, args=ocp.args.PyTreeRestore(item=wanted, restore_args=kinds, partial_restore=True)
        )
        handler.close()
        return {k: found.get(k, {}) for k in COLLECTIONS}

    def wait(self) -> None:
        """Waits until everything is written."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until everything is written, and ends the background threads."""
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def any_saved(workdir: str | pathlib.Path) -> bool:
    """Whether there are checkpoints in `workdir`; asks the file system alone."""
    return any((pathlib.Path(workdir) / FOLDER).glob("*"))


def read_best(workdir: str | pathlib.Path) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Step, record and variables of the best checkpoint in `workdir`, of a run or imported.

    Raises:
      UserError: there is none.
    """
    if not (pathlib.Path(workdir) / FOLDER).is_dir():
        raise UserError(f"{workdir} holds no checkpoints; train first, or give the --workdir of a run")
    with Checkpoints(workdir) as checkpoints:
        step = checkpoints.best()
        if step is None:
            raise UserError(f"{workdir} holds no complete checkpoint; train at least one epoch first")
        return step, checkpoints.record(step), checkpoints.restore_variables(step)


def save_imported(workdir: str | pathlib.Path, variables: Mapping[str, Any], imported: dict[str, Any]) -> None:
    """Makes `workdir` hold one checkpoint, of step 0, with variables that were trained elsewhere.

    The record's config holds the fields that decide the variables alone, its metrics what the origin says of them.

    Args:
      workdir: made where missing; left as it was where anything fails.
      variables: `{"params": ..., "batch_stats": ...}`.
      imported: where they come from; `model`, `conv`, `epoch` and `best_prec1` (None where unknown) among it.

    Raises:
      UserError: `workdir` already holds checkpoints, or cannot be written to.
    """
    workdir = pathlib.Path(workdir).absolute()
    target = workdir / FOLDER
    if target.exists():
        raise UserError(f"{workdir} already holds checkpoints; give another --workdir")
    record = {
        "config": {"model": imported["model"], "conv": imported["conv"], "scale": "learned"},
        "metrics": {"epoch": imported["epoch"] or 0, METRIC: imported["best_prec1"] or 0.0},
        "imported": imported,
    }
    aside = None
    made = not workdir.exists()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        # Written aside and renamed when complete.
        aside = pathlib.Path(tempfile.mkdtemp(prefix=".importing-", dir=workdir))
        with Checkpoints(aside) as checkpoints:
            checkpoints.save_variables(variables, record)
        (aside / FOLDER).rename(target)
    except OSError as error:
        raise UserError(f"{workdir} cannot be written to: {error.strerror}; give another --workdir") from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
        if made and workdir.is_dir() and not any(workdir.iterdir()):
            workdir.rmdir()
