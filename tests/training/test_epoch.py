"""Tests the steps of an epoch: which metrics are fetched, and the first loss that is not finite."""

import json
import pathlib
import types

import numpy as np
import pytest

from recu_jax import RunFailed
from recu_jax.training.epoch import EpochRunner, StepMetrics, check_finite
from recu_jax.training.step import TrainState
from tests.support.small_runs import digits


def add(metrics, losses):
    metrics.add({"loss": np.array(losses), "top1": np.arange(len(losses), dtype=np.float32)}, len(losses))


def test_steps_are_counted_at_once_and_fetched_together():
    metrics = StepMetrics()
    add(metrics, [1.0, 2.0])
    add(metrics, [6.0])
    assert (metrics.steps, metrics.unchecked) == (3, 3)
    assert metrics.fetch() is None and metrics.unchecked == 0
    assert metrics.last() == {"loss": 6.0, "top1": 0.0} and metrics.loss(1) == 2.0
    assert metrics.means() == {"loss": 3.0, "top1": 1 / 3}


def test_an_epoch_goes_on_from_what_was_saved():
    before, whole = StepMetrics(), StepMetrics()
    add(before, [0.1, 0.2])
    add(whole, [0.1, 0.2])
    before.fetch()
    after = StepMetrics(json.loads(json.dumps(before.as_json())))
    for metrics in (after, whole):
        add(metrics, [0.3])
        metrics.fetch()
    assert after.steps == 3 and after.means() == whole.means() and after.as_json() == whole.as_json()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_loss_that_is_not_finite(bad):
    metrics = StepMetrics()
    add(metrics, [1.0, 1.0])
    assert metrics.fetch() is None
    add(metrics, [1.0, bad, bad])
    assert metrics.fetch() == 3
    add(metrics, [1.0])
    assert metrics.fetch() is None  # only losses since the last fetch are checked


class Run:
    """A stand-in for a run, with ten steps per epoch, two per dispatch, and given losses. Stops after a given step."""

    steps_per_epoch = 10

    def __init__(self, folder, losses, stop_after=None):
        self.workdir, self.losses, self.stop_after, self.checks, self.protected = folder, losses, stop_after, 0, False
        self.progress = types.SimpleNamespace(due=lambda steps: False, advance=lambda steps, **numbers: None)
        config = digits(check_finite_every_steps=4)
        recipe = types.SimpleNamespace(learning_rate=lambda step: 0.1, tau=lambda step: 0.85)
        self.epochs = EpochRunner(config, recipe, self, None, self, self)

    def step(self, recipe):
        return lambda state, teacher, losses: (state + 1, {"loss": losses, "top1": losses})

    def take(self, step, previous):
        return 2, (np.array(self.losses[step % 10 : step % 10 + 2]),)

    def records(self, step):
        return np.arange(step, step + 12)

    def epoch_metrics(self, seconds):
        return {"of_the_feed": 1.0}

    def compiled(self):
        assert self.checks == 0  # it is called once, after the first dispatch

    def check(self):
        self.checks += 1

    def protect(self):
        self.protected = True

    def due(self, step):
        return self.stop_after is not None and step >= self.stop_after


def test_an_epoch_to_its_end(tmp_path):
    run = Run(tmp_path, [float(i) for i in range(10)])
    state, metrics = run.epochs.run(0, 3, StepMetrics())
    assert (state, run.checks, run.protected) == (5, 5, True)
    assert (metrics["train_loss"], metrics["of_the_feed"]) == (4.5, 1.0) and metrics["images_per_second"] > 0


def test_images_per_second_leave_out_the_dispatch_that_compiles(tmp_path, monkeypatch):
    """On this clock the first dispatch, of two steps, takes 100 seconds, and the four others take one each."""
    run, now = Run(tmp_path, [1.0] * 10), [1000.0]
    step = run.epochs._step

    def timed(*arguments):
        now[0] += 100.0 if now[0] == 1000.0 else 1.0
        return step(*arguments)

    monkeypatch.setattr("recu_jax.training.epoch.time.monotonic", lambda: now[0])
    run.epochs._step = timed
    _, metrics = run.epochs.run(0, 3, StepMetrics())
    assert metrics["images_per_second"] == 8 * run.epochs._batch_size / 4


class Later(np.ndarray):
    """Stands for numbers that a device is still computing. They are done once `block_until_ready` is called."""

    def block_until_ready(self):
        self.done = True
        return self


def test_few_dispatches_wait_for_the_devices(tmp_path):
    """A stop waits for all queued dispatches. With many in the queue and slow steps, it would take minutes."""
    run, losses, queued = Run(tmp_path, [1.0] * 10), [], []

    def step(state, teacher, new):
        queued.append(sum(not hasattr(loss, "done") for loss in losses))
        losses.append(new.view(Later))
        return state, {"loss": losses[-1], "top1": new}

    run.epochs._step = step
    run.epochs._check_every = 100
    run.epochs.run(0, 3, StepMetrics())
    assert queued == [0, 0, 1, 2, 2]


def test_a_stop_within_an_epoch_and_the_rest_of_it(tmp_path):
    losses, done = [float(i) for i in range(10)], StepMetrics()
    state, metrics = Run(tmp_path, losses, stop_after=34).epochs.run(0, 3, done)
    assert (state, metrics, done.steps) == (2, None, 4)
    state, metrics = Run(tmp_path, losses).epochs.run(state, 3, StepMetrics(done.as_json()))
    assert state == 5 and metrics["train_loss"] == 4.5


def test_a_loss_that_is_not_finite_ends_the_run_soon_and_says_where(tmp_path):
    run = Run(tmp_path, [1.0, 1.0, 1.0, np.nan, *[1.0] * 6])
    with pytest.raises(RunFailed, match=r"the loss is nan at step 34 \(epoch 4, learning rate 0.1, tau 0") as error:
        run.epochs.run(0, 3, StepMetrics())
    assert run.checks == 1  # the loss is noticed after the second of five dispatches
    assert "on training images 33, 34, 35, 36, 37, 38, 39, 40, ..." in str(error.value)
    report = json.loads((pathlib.Path(tmp_path) / "not_finite.json").read_text())
    assert (report["step"], report["loss"], report["records"]) == (34, "nan", list(range(33, 45)))


@pytest.mark.parametrize("where", ["params", "batch_stats"])
def test_a_state_that_is_not_finite_is_not_saved(where):
    state = TrainState(np.int32(7), {"a": np.ones(3)}, {"b": np.ones(2)}, ())
    check_finite(state)
    getattr(state, where)[{"params": "a", "batch_stats": "b"}[where]][1] = np.inf
    with pytest.raises(RunFailed, match=rf"{where}\['[ab]'\] is not finite after step 7, which is not saved"):
        check_finite(state)
