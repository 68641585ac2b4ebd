"""Writes checkpoints to the disk, in the background.

A checkpoint is written under a temporary name and renamed when it is complete. Older checkpoints are kept until then.
"""

import contextlib
import errno
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from recu_jax.errors import RunFailed, UserError, one_line
from recu_jax.training import distributed
from recu_jax.training.checkpoint import digests
from recu_jax.training.checkpoint.reading import EMA, FOLDER, METRIC, saved
from recu_jax.training.step import TrainState

# The test top-1 that a checkpoint of an unfinished epoch gets. Such a checkpoint ranks below those of whole epochs.
UNRANKED = -1.0


class Checkpoints:
    """Saves checkpoints in `<workdir>/checkpoints`. Keeps the newest two and the best by test top-1.

    A checkpoint is named by its step and holds the state and a record. It is written under a temporary name and renamed
    when it is complete. So every checkpoint with its final name is complete. Saving runs in the background; `close`
    waits for it. Arrays are written from the host, so that a run with any number of devices can read them. Every
    process of a run must make the same calls.

    Every method raises `RunFailed` if the disk is full or cannot be written to.
    """

    def __init__(self, workdir: str | pathlib.Path):
        self._workdir = workdir
        self._saving = None  # the step of the save in progress
        # Without this policy, `best_fn` with `max_to_keep` would delete the newest checkpoint if it is not the best.
        policy = managers.AnyPreservationPolicy(
            [managers.LatestN(n=2), managers.BestN(get_metric_fn=lambda m: m[METRIC], n=1)]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            best_fn=lambda m: m[METRIC],
            enable_async_checkpointing=True,
            # Removes incomplete checkpoints of a killed process.
            cleanup_tmp_directories=True,
        )
        with self._failing():
            self._manager = ocp.CheckpointManager(pathlib.Path(workdir).absolute() / FOLDER, options=options)

    def save(
        self,
        state: TrainState,
        config: dict[str, Any],
        metrics: dict[str, Any],
        unfinished_epoch: dict[str, Any] | None = None,
        diagnostics: Mapping[str, Any] | None = None,
        dataset: dict[str, Any] | None = None,
    ) -> None:
        """Starts to save a checkpoint of `state`. The folder's name is the step.

        Args:
          state: host arrays.
          config: fields of the run's config.
          metrics: metrics of the epoch that ended, with `METRIC`. For an unfinished epoch, only its number, `epoch`.
          unfinished_epoch: number and metrics so far of an epoch that is not finished; None after a whole epoch. The
            checkpoint of an unfinished epoch never counts as the best.
          diagnostics: the memory of the diagnostics, nested dicts of host arrays.
          dataset: the description of the data set, as `DatasetInfo.as_json` returns it.
        """
        record = {"config": config, "metrics": metrics}
        if dataset is not None:
            record |= {"dataset": dataset}
        if unfinished_epoch is not None:
            record |= {"unfinished_epoch": unfinished_epoch, "metrics": {**metrics, METRIC: UNRANKED}}
        parts = {name: getattr(state, name) for name in ("step", "params", "batch_stats", "opt_state")}
        parts |= {} if state.ema is None else {EMA: state.ema}
        beside = {digests.DIAGNOSTICS: dict(diagnostics)} if diagnostics else {}
        self._save(int(state.step), state, digests.signed(record, parts | beside), beside)

    def save_variables(self, variables: Mapping[str, Any], record: dict[str, Any]) -> None:
        """Starts to save the variables of an imported model as the checkpoint of step 0."""
        state = {"step": np.zeros((), np.int32), **jax.device_get(dict(variables))}
        self._save(0, state, digests.signed(record, state))

    def _save(self, step, state, record, beside=()):
        self.wait()
        self._saving = step
        with self._failing():
            if step in self._manager.all_steps():
                # A run that was stopped between the last step of an epoch and the end of its evaluation has saved this
                # step as unfinished. The checkpoint of the finished epoch replaces that checkpoint.
                self._manager.delete(step)
            arrays = {name: ocp.args.StandardSave(tree) for name, tree in {"state": state, **dict(beside)}.items()}
            self._manager.save(
                step,
                args=ocp.args.Composite(record=ocp.args.JsonSave(record), **arrays),
                metrics={METRIC: record["metrics"][METRIC]},
            )

    def check(self) -> None:
        """Raises `RunFailed` if a save in the background failed. Call it often: it is cheap."""
        # Orbax's `check_for_errors` would find nothing here, because a thread of Orbax takes the error first.
        if self._saving is not None and not self._manager.is_saving_in_progress():
            self.wait()
            self._saving = None

    def wait(self) -> None:
        """Waits until everything is written."""
        with self._failing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until everything is written, and ends the background threads."""
        with self._failing():
            self._manager.close()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise exceptions of many types for a full disk
            if distributed.several() and isinstance(error, jax.errors.JaxRuntimeError):
                raise distributed.others_gone(error) from error
            what = "checkpoints" if self._saving is None else f"the checkpoint of step {self._saving}"
            left = [s.step for s in saved(self._workdir)]
            kept = f"that of step {left[-1]} is whole" if left else "none was written before"
            raise RunFailed(
                f"{what} cannot be written to {self._workdir}: {_reason(error)}; {kept}; see to the disk, and run the "
                "same command again"
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        # After an error with several processes, `close` could wait forever: the other processes may have ended, or may
        # not know of the error.
        if exception[0] is None or not distributed.several():
            self.close()


def _reason(error: BaseException) -> str:
    """Returns the operating system's message, from anywhere in the chain of exceptions.

    If there is none, returns the first 120 characters of the type and text of `error`.
    """
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or at.__context__
    for link in chain:
        if isinstance(link, OSError) and link.errno is not None:
            return os.strerror(link.errno)
    said = " ".join(str(e) for e in chain)
    known = (
        os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)
    )
    words = one_line(f"{type(error).__name__}: {error}", 120)
    return next((text for text in known if text in said), words)


def save_imported(workdir: str | pathlib.Path, variables: Mapping[str, Any], imported: dict[str, Any]) -> None:
    """Writes variables that were trained elsewhere into `workdir`, as one checkpoint of step 0.

    The config in the record holds only `model`, `conv` and `alpha`. The metrics in the record come from the source.

    Args:
      workdir: created if missing. If an error occurs, it stays unchanged.
      variables: `{"params": ..., "batch_stats": ...}`.
      imported: describes the source. It has at least `model`, `conv`, `epoch` and `best_prec1` (percent). The last two
        are None if unknown.

    Raises:
      UserError: `workdir` already holds checkpoints, or cannot be written to.
    """
    workdir = pathlib.Path(workdir).absolute()
    target = workdir / FOLDER
    if target.exists():
        raise UserError(f"{workdir} already holds checkpoints; give another --workdir")
    record = {
        "config": {"model": imported["model"], "conv": imported["conv"], "alpha": "learned"},
        "metrics": {"epoch": imported["epoch"] or 0, METRIC: imported["best_prec1"] or 0.0},
        "imported": imported,
    }
    aside = None
    made = not workdir.exists()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        # Write into a temporary folder and rename it when complete.
        aside = pathlib.Path(tempfile.mkdtemp(prefix=".importing-", dir=workdir))
        with Checkpoints(aside) as checkpoints:
            checkpoints.save_variables(variables, record)
        (aside / FOLDER).rename(target)
    except (OSError, RunFailed) as error:
        raise UserError(f"{workdir} cannot be written to: {_reason(error)}; give another --workdir") from error
    finally:
        if aside is not None:
            _remove(aside)
        if made and workdir.is_dir() and not any(workdir.iterdir()):
            workdir.rmdir()


def _remove(folder):
    """Tries for about 5 seconds to remove a folder, and then gives up without an error.

    After an error, TensorStore's threads may still write files there for a moment.
    """
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
