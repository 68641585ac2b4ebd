"""Checkpoints of a run, with Orbax; nothing else in the library knows Orbax."""

import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from recu_jax.train import TrainState

METRIC = "test_top1"


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
            pathlib.Path(workdir).absolute() / "checkpoints",
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
        self._manager.save(
            int(host_state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(host_state),
                record=ocp.args.JsonSave({"config": config, "metrics": metrics}),
            ),
            metrics={METRIC: metrics[METRIC]},
        )

    def record(self, step: int) -> dict[str, Any]:
        """`{"config": ..., "metrics": ...}` of a checkpoint."""
        return self._manager.restore(step, args=ocp.args.Composite(record=ocp.args.JsonRestore()))["record"]

    def restore(self, step: int, like: TrainState | None = None) -> Any:
        """State of a checkpoint, as NumPy arrays.

        Args:
          step: which one.
          like: a state of the same structure and shapes, which the result takes; None gives nested dicts and lists.
        """
        template = None if like is None else jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), like)
        return self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(template)))["state"]

    def wait(self) -> None:
        """Waits until everything is written."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until everything is written, and ends the background threads."""
        self._manager.close()
