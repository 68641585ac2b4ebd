"""Reads checkpoints from the disk and checks their digests. Writes nothing."""

import contextlib
import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from recu_jax.errors import UserError, one_line
from recu_jax.training.checkpoint import digests

FOLDER = "checkpoints"
METRIC = "test_top1"
# The variables of the model. The other parts of a state are needed for training only.
COLLECTIONS = ("params", "batch_stats")
# The part of a state that holds the exponential averages of these variables, in runs with `config.ema_decay`.
EMA = "ema"


class Damaged(Exception):  # noqa: N818  (no "Error" in the name: a run can continue from another checkpoint)
    """Raised for a checkpoint whose content differs from what was saved. The message gives the reason."""


@dataclasses.dataclass(frozen=True)
class SavedCheckpoint:
    """The checkpoint of one step. What is read is checked against the digests in the checkpoint.

    Every method raises `Damaged` if a file is missing or cannot be read, or if its content differs from what was saved.

    Attributes:
      folder: the folder of this checkpoint, `<workdir>/checkpoints/STEP`.
    """

    folder: pathlib.Path

    @property
    def step(self) -> int:
        return int(self.folder.name)

    @functools.cached_property
    def record(self) -> dict[str, Any]:
        """The record that `writing` saved with the state: `config`, `metrics`, digests and more."""
        with _damage("its record"):
            record = json.loads((self.folder / "record" / "metadata").read_text())
            ranked = json.loads((self.folder / "metrics" / "metrics").read_text())
            said, written = record["metrics"][METRIC], record.get(digests.KEY, {}).get(digests.RECORD)
        if written is None or written != digests.of_record(record):
            raise Damaged("its record is not what was written")
        if ranked != {METRIC: said}:
            raise Damaged("its metrics are not what was written")
        return record

    def state(self, like: Any = None) -> Any:
        """Reads the whole state as NumPy arrays.

        Args:
          like: a state with arrays or `jax.ShapeDtypeStruct` as leaves. The result has the same structure. With None,
            the result is nested dicts and lists, and its digests are not checked.
        """
        template = None if like is None else jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), like)
        with _damage("its arrays"), contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
            state = handler.restore(self.folder / "state", args=ocp.args.StandardRestore(template))
        if like is not None:
            self._check({name: getattr(state, name) for name in self.record[digests.KEY] if hasattr(state, name)})
        return state

    def variables(self) -> dict[str, Any]:
        """Reads `{"params": ..., "batch_stats": ...}` as NumPy arrays, and no other part of the state.

        If the checkpoint has exponential averages of the variables, the averages are read instead.
        """
        averaged = EMA in self.record[digests.KEY]
        with _damage("its arrays"), contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
            there = handler.metadata(self.folder / "state").tree
            source = there[EMA] if averaged else there
            wanted = {k: source[k] for k in COLLECTIONS if source.get(k)}
            wanted = {EMA: wanted} if averaged else wanted
            kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
            arguments = ocp.args.PyTreeRestore(item=wanted, restore_args=kinds, partial_restore=True)
            found = handler.restore(self.folder / "state", args=arguments)
        found = found[EMA] if averaged else found
        variables = {k: found.get(k, {}) for k in COLLECTIONS}
        self._check({EMA: variables} if averaged else variables)
        return variables

    def diagnostics(self) -> dict[str, Any] | None:
        """Reads the memory of the diagnostics as NumPy arrays. Returns None if the checkpoint has none."""
        if digests.DIAGNOSTICS not in self.record[digests.KEY]:
            return None
        with _damage("its diagnostics"), contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
            memory = handler.restore(self.folder / digests.DIAGNOSTICS, args=ocp.args.StandardRestore())
        memory = jax.tree.map(np.asarray, memory)
        self._check({digests.DIAGNOSTICS: memory})
        return memory

    def _check(self, parts):
        written = self.record[digests.KEY]
        for name, part in parts.items():
            if name in written and digests.of_arrays(part) != written[name]:
                raise Damaged(f"its {name} are not what was written")


@contextlib.contextmanager
def _damage(what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise Damaged(f"{pathlib.Path(error.filename or 'a file').name} is missing from {what}") from error
    except Exception as error:  # the readers raise exceptions of many types for damaged bytes
        raise Damaged(f"{what} cannot be read: {one_line(error, 120)}") from error


def saved(workdir: str | pathlib.Path) -> list[SavedCheckpoint]:
    """Lists the checkpoints in `workdir`, oldest first. Checkpoints that Orbax did not finish writing are left out.

    Raises:
      UserError: `<workdir>/checkpoints` is a file.
    """
    folder = pathlib.Path(workdir).absolute() / FOLDER
    if folder.is_file():
        raise UserError(f"{folder} is a file; it must be the folder of checkpoints: move it away")
    found = [SavedCheckpoint(f) for f in folder.glob("*") if f.name.isdecimal() and f.is_dir()]
    return sorted(found, key=lambda s: s.step)


def any_saved(workdir: str | pathlib.Path) -> bool:
    """Returns whether `workdir` holds checkpoints, damaged or not."""
    return bool(saved(workdir))


def read_best(workdir: str | pathlib.Path) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Reads the best checkpoint in `workdir`, saved by a run or imported.

    The best checkpoint has the highest test top-1. Of checkpoints with equal top-1, the latest is the best. Checkpoints
    of unfinished epochs do not count.

    Returns:
      Step, record and variables.

    Raises:
      UserError: there is no checkpoint of a whole epoch, the record of any checkpoint is damaged, or the variables of
        the best checkpoint are damaged.
    """
    if not (pathlib.Path(workdir) / FOLDER).is_dir():
        raise UserError(f"{workdir} holds no checkpoints; train first, or give the --workdir of a run")
    checkpoint = None
    try:
        ranked = []
        for checkpoint in saved(workdir):
            if not checkpoint.record.get("unfinished_epoch"):
                ranked.append((checkpoint.record["metrics"][METRIC], checkpoint.step, checkpoint))
        if not ranked:
            raise UserError(f"{workdir} holds no checkpoint of a whole epoch; train at least one epoch first")
        checkpoint = max(ranked)[-1]
        return checkpoint.step, checkpoint.record, checkpoint.variables()
    except Damaged as error:
        folder = checkpoint.folder if checkpoint else workdir
        raise UserError(f"{folder} is damaged: {error}; to use the others, move it out of {FOLDER}") from error
