"""Checks that a run's diagnostics from epoch to epoch are equal with and without a restart from a checkpoint."""

import dataclasses

import jax
import numpy as np
import pytest

from recu_jax.training.epoch import StepMetrics
from recu_jax.training.measuring import IMAGES, EpochDiagnostics, plain
from recu_jax.training.run import Start, prepare
from recu_jax.training.step import create_state, replicate
from tests.support.small_runs import digits


def test_what_json_holds():
    assert plain(np.float32(1 / 3)) == 0.333333
    assert plain(np.array([1, 2])) == [1, 2]
    assert plain(np.inf) is plain(float("nan")) is None


@pytest.fixture(scope="module")
def run():
    run = prepare(digits(model="digits_resnet8"))
    small = run.recipe.model.clone(stage_sizes=(1, 1), widths=(4, 8))
    return dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, model=small))


def moved(state, amount):
    r = np.random.default_rng(int(1000 * amount))
    return state.replace(params=jax.tree.map(lambda a: a + amount * r.normal(size=a.shape).astype("f"), state.params))


@pytest.mark.slow
def test_a_run_that_goes_on_measures_what_one_never_stopped_does(run):
    state = create_state(run.recipe, 0, (8, 8, 1))
    images = run.feed.test_sample(IMAGES)
    states = [state, moved(state, 0.001), moved(state, 0.1), moved(state, 0.2)]

    def measured(diagnostics, states):
        rows = [diagnostics.measure(replicate(s, run.devices), 0.9, 1.0, images) for s in states]
        return [row["layers"] for row in rows]

    start = Start(state, 0, StepMetrics(), None)
    whole = measured(EpochDiagnostics(run, start), states)
    assert set(whole[0]) == {f"layer{i}_0/conv{j}" for i in (1, 2) for j in (1, 2)}
    for layer in whole[2].values():
        assert len(layer["histogram"]) == 64 and 0 < layer["flipped"] < 1 and 0 <= layer["in_window"] <= 1
    first = EpochDiagnostics(run, start)
    assert measured(first, states[:2]) == whole[:2]
    point = type("ResumePoint", (), {"diagnostics": first.for_checkpoint()})
    again = EpochDiagnostics(run, Start(states[1], 2, StepMetrics(), point))
    assert measured(again, states[2:]) == whole[2:]
