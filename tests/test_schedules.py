"""Compares schedules with values of every epoch that were recorded from the authors' code."""

import json

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recu_jax import (
    UserError,
    cosine_learning_rate,
    cosine_tau,
    exponential_tau,
    linear_learning_rate,
    linear_tau,
    step_learning_rate,
)
from recu_jax.schedules import feature_weight, training_progress
from tests.support.golden_values import FOLDER

RECORDED = json.loads((FOLDER / "schedules_per_epoch.json").read_text())
SCHEDULES = {
    "cos_600_warm": lambda n: cosine_learning_rate(0.1, 600, n),
    "cos_200_warm": lambda n: cosine_learning_rate(0.1, 200, n),
    "cos_30": lambda n: cosine_learning_rate(0.1, 30, n, warmup_epochs=0),
    "step_30_10_20": lambda n: step_learning_rate(0.1, (10, 20), n, warmup_epochs=0),
    "linear_256_warm": lambda n: linear_learning_rate(0.1, 256, n),
    "tau_600": lambda n: exponential_tau(600, n),
    "tau_200": lambda n: exponential_tau(200, n),
}


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_epoch(name):
    expected = np.array(RECORDED[name])
    by_epoch = SCHEDULES[name](1)
    np.testing.assert_allclose(jax.vmap(by_epoch)(np.arange(len(expected))), expected, rtol=1e-12)
    # With 7 steps per epoch, each step has the value of its epoch.
    by_step = jax.vmap(SCHEDULES[name](7))(np.arange(7 * len(expected)))
    np.testing.assert_allclose(by_step, np.repeat(expected, 7), rtol=1e-12)


@pytest.mark.parametrize("name", ["cos_600_warm", "linear_256_warm", "tau_600"])
def test_float32(name):
    # Near its end a cosine is a difference of nearly equal numbers, so an absolute tolerance is added.
    got = jax.vmap(SCHEDULES[name](1))(np.arange(len(RECORDED[name])))
    np.testing.assert_allclose(got, RECORDED[name], rtol=1e-6, atol=1e-7)


def test_the_papers_values():
    tau = exponential_tau(600)
    assert [round(float(tau(e)), 5) for e in (0, 300, 599)] == [0.85, 0.90286, 0.98963]


@pytest.mark.parametrize("schedule", [exponential_tau, linear_tau, cosine_tau])
def test_tau_starts_ends_and_can_be_fixed(schedule):
    tau = schedule(10, 7, 0.85, 0.99)
    assert [round(float(tau(step)), 6) for step in (0, 6, 70)] == [0.85, 0.85, 0.99]
    assert {float(schedule(10, 7, 0.9, 0.9)(step)) for step in (0, 30, 69)} == {float(np.float32(0.9))}


def test_other_taus_between_their_ends():
    np.testing.assert_allclose([float(linear_tau(10)(e)) for e in (3, 5)], [0.85 + 0.14 * 0.3, 0.92], rtol=1e-6)
    quarter = 0.92 - 0.07 * np.sqrt(0.5)
    np.testing.assert_allclose([float(cosine_tau(8)(e)) for e in (2, 4, 6)], [quarter, 0.92, 1.84 - quarter], rtol=1e-6)


STEPS = np.arange(300)


@given(
    epochs=st.integers(1, 50),
    steps_per_epoch=st.integers(1, 6),
    tau=st.lists(st.floats(0.51, 1), min_size=2, max_size=2).map(sorted),
    warmup=st.integers(0, 9),
)
def test_values_are_those_of_the_steps_epoch_and_go_one_way(epochs, steps_per_epoch, tau, warmup):
    """A value depends on the step alone, so a resumed run has the values of a run that never stopped."""
    of_steps = STEPS // steps_per_epoch

    def values(schedule, *given):
        found = np.asarray(schedule(*given[:2], steps_per_epoch, *given[2:])(STEPS), float)
        np.testing.assert_array_equal(found, schedule(*given[:2], 1, *given[2:])(of_steps))
        return found[of_steps < epochs]

    for schedule in (exponential_tau, linear_tau, cosine_tau):
        found = values(lambda e, _, n, *rest, schedule=schedule: schedule(e, n, *rest), epochs, None, *tau)
        assert (np.diff(found) > -1e-6).all() and abs(found[0] - tau[0]) < 1e-6 and found[-1] < tau[1] + 1e-6
    e = of_steps[of_steps < epochs]
    np.testing.assert_allclose(values(lambda e, _, n: training_progress(e, n), epochs, None), e / epochs, rtol=1e-6)
    milestones = (epochs // 3, epochs // 2)
    for schedule, second in (
        (cosine_learning_rate, epochs),
        (linear_learning_rate, epochs),
        (step_learning_rate, milestones),
    ):
        found = values(schedule, 0.3, second, warmup)
        np.testing.assert_allclose(found[e < warmup], 0.3 * (e[e < warmup] + 1) / max(warmup, 1), rtol=1e-6)
        assert (np.diff(found[e >= warmup]) < 1e-6).all()


def test_a_rate_falls_by_its_factor_at_each_milestone():
    rate = step_learning_rate(0.8, (2, 4), 3, warmup_epochs=0, factor=0.5)
    np.testing.assert_allclose(rate(STEPS)[:15], np.repeat([0.8, 0.8, 0.4, 0.4, 0.2], 3), rtol=1e-6)
    # Without milestones the rate is constant after the warmup, which is five epochs by default.
    np.testing.assert_allclose(step_learning_rate(0.8, ())(STEPS), 0.16 * np.minimum(STEPS + 1, 5), 1e-6)


@pytest.mark.parametrize("schedule", [exponential_tau, linear_tau, cosine_tau])
@pytest.mark.parametrize("tau_min,tau_max", [(0.5, 0.9), (0.9, 0.8), (0.8, 1.1)])
def test_tau_range(schedule, tau_min, tau_max):
    with pytest.raises(UserError, match=r"0\.5 < tau_min <= tau_max <= 1"):
        schedule(10, 1, tau_min, tau_max)


def test_the_weight_of_the_features_falls_to_0_in_the_first_half():
    by_step = jax.vmap(feature_weight(8.0, 5, 2))(np.arange(10))
    np.testing.assert_allclose(by_step, np.repeat([8.0, 4.8, 1.6, 0.0, 0.0], 2), rtol=1e-6)
