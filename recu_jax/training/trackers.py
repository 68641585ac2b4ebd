"""Sends a run's scalars to experiment trackers: TensorBoard, Weights & Biases, trackio, or one of the user's own."""

import dataclasses
import json
import pathlib
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from recu_jax import references
from recu_jax.atomic_write import atomic_write
from recu_jax.config.fields import plain
from recu_jax.diagnostics import measures
from recu_jax.errors import one_line, require
from recu_jax.training.progress import say

# Holds the id of the run in the tracker, so that a resumed run continues it.
ID_FILE = "tracker.json"


@dataclasses.dataclass(frozen=True)
class TrackedRun:
    """Describes a run to a tracker.

    Attributes:
      workdir: of the run.
      config: fields of the config, as JSON holds them.
      project: `config.tracker_project`.
      id: id of the run in the tracker. A resumed run has the same id. Empty for TensorBoard.
      first_step: first step that this process may write. If the run was stopped, an earlier process may have written
        this step and later ones already.
    """

    workdir: pathlib.Path
    config: dict[str, Any]
    project: str
    id: str
    first_step: int


class Tracker:
    """The interface of a tracker. A user's own class has both methods, and its constructor takes a `TrackedRun`."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Records the numbers of an epoch. Called after each epoch.

        Args:
          step: optimizer steps done.
          values: the metrics of the epoch by name, as in metrics.jsonl, and its diagnostics by `MEASURE/LAYER`.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Ends the tracking. Called once, when the run ends or stops."""
        raise NotImplementedError


class TensorBoard(Tracker):
    """Writes events to `<workdir>/tensorboard`. The only tracker with histograms."""

    def __init__(self, run: TrackedRun):
        from tensorboardX import SummaryWriter  # the import takes 0.3 s, and runs without TensorBoard do not need it

        # TensorBoard discards events that an earlier process wrote from `first_step` on.
        self._events = SummaryWriter(str(run.workdir / "tensorboard"), purge_step=run.first_step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._events.add_scalar(name, value, step)
        self._events.flush()

    def histogram(self, step: int, layer: str, counts: Sequence[int], scale: float) -> None:
        """Adds the histogram of a layer's latent weights. `counts` and `scale` come from the layer's diagnostics."""
        limits = scale * np.linspace(-measures.RANGE, measures.RANGE, measures.BINS + 1)
        centers, numbers = (limits[1:] + limits[:-1]) / 2, np.asarray(counts)
        self._events.add_histogram_raw(
            f"weights/{layer}", min=limits[0], max=limits[-1], num=int(numbers.sum()), sum=float(numbers @ centers),
            sum_squares=float(numbers @ centers**2), bucket_limits=limits[1:], bucket_counts=numbers, global_step=step,
        )  # fmt: skip
        self._events.flush()

    def close(self) -> None:
        self._events.close()


class WeightsAndBiases(Tracker):
    """Logs to Weights & Biases; its files are in `<workdir>/wandb`. WANDB_MODE=offline works as for wandb itself."""

    def __init__(self, run: TrackedRun):
        import wandb

        settings = wandb.Settings(silent=True, console="off")  # wandb would otherwise write into the progress bar
        self._run = wandb.init(
            project=run.project, id=run.id, name=run.workdir.name, dir=str(run.workdir), config=run.config,
            resume="allow", settings=settings,
        )  # fmt: skip
        where = f"offline; send it by: wandb sync {run.workdir}/wandb/*{run.id}" if self._run.offline else self._run.url
        say(f"tracking with wandb, run {run.id} of project {run.project}: {where}")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        # wandb keeps the first values of a step. An epoch that is repeated after a stop has the same values.
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class Trackio(Tracker):
    """Logs to trackio, which keeps its runs in the folder that the environment variable TRACKIO_DIR names."""

    def __init__(self, run: TrackedRun):
        import trackio

        # trackio identifies a run by its name alone, so the name contains the id.
        self._run = trackio.init(
            project=run.project, name=f"{run.workdir.name}-{run.id}", config=run.config, resume="allow", embed=False,
        )  # fmt: skip

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


# Each key is a value of `config.tracker`, and the name of the package to install.
_KINDS: dict[str, Callable[[TrackedRun], Tracker]] = {"wandb": WeightsAndBiases, "trackio": Trackio}


def check(name: str | None) -> None:
    """Raises UserError if the tracker is not installed or, for a reference `module:name`, cannot be loaded.

    Args:
      name: `config.tracker`.
    """
    if name is not None and references.is_reference(name):
        references.load("config.tracker", name)
    elif name is not None:
        require(name)


class Trackers:
    """The trackers of a run. If a tracker fails, a line says so, and the run goes on without this tracker."""

    def __init__(self, config: ml_collections.ConfigDict, workdir: pathlib.Path, first_step: int, resumed: bool):
        """Starts the trackers that `config` names.

        Args:
          config: of the run.
          workdir: of the run.
          first_step: as in `TrackedRun`.
          resumed: whether the run is resumed. The tracker `config.tracker` then gets the id that the run had before, if
            the workdir still holds it.
        """
        self._open: dict[str, Any] = {}
        run = TrackedRun(workdir, plain(config), config.tracker_project, "", first_step)
        if config.tensorboard:
            self._try("tensorboard", lambda: TensorBoard(run))
        if config.tracker is not None:
            name = config.tracker

            def start():
                kind = references.load("config.tracker", name) if references.is_reference(name) else _KINDS[name]
                return kind(dataclasses.replace(run, id=_id(workdir, resumed)))

            self._try(name, start)

    def write(self, row: Mapping[str, Any], diagnostics: Mapping[str, Any] | None = None) -> None:
        """Writes the metrics of one epoch, and its diagnostics if given."""
        layers = (diagnostics or {}).get("layers", {})
        scalars = {name: value for name, value in row.items() if name != "step"}
        scalars |= {
            f"{name}/{layer}": value for layer, values in layers.items() for name, value in values.items()
            if name != "histogram" and value is not None
        }  # fmt: skip
        for name, tracker in list(self._open.items()):
            self._try(name, lambda tracker=tracker: _write(tracker, row["step"], scalars, layers))

    def close(self) -> None:
        """Closes all trackers."""
        for name, tracker in list(self._open.items()):
            self._try(name, lambda tracker=tracker: tracker.close())
        self._open = {}

    def _try(self, name, function):
        """Calls `function`, which starts, uses or closes the tracker `name`. If the call fails, drops the tracker.

        If `function` returns a tracker, that tracker is kept under `name`.
        """
        try:
            self._open[name] = function() or self._open.get(name)
        # Errors may be of any type, because trackers use the network, the disk and users' code. Without a login, some
        # trackers raise SystemExit.
        except (Exception, SystemExit) as error:
            self._open.pop(name, None)
            say(f"tracker {name} failed, and the run goes on without it: {one_line(error, 200)}", sys.stderr)


def _write(tracker, step, scalars, layers):
    tracker.scalars(step, scalars)
    if isinstance(tracker, TensorBoard):
        for layer, values in layers.items():
            if "histogram" in values:
                tracker.histogram(step, layer, values["histogram"], values["scale"])


def _id(workdir, resumed):
    """Returns the id of the run in the tracker.

    A resumed run gets the id in `ID_FILE`. A new run, or a resumed run without the file, gets a new id.
    """
    file = workdir / ID_FILE
    if resumed and file.exists():
        return str(json.loads(file.read_text())["id"])
    made = uuid.uuid4().hex[:8]
    with atomic_write(file) as new:
        new.write(json.dumps({"id": made}).encode())
    return made
