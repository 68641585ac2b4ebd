"""Tests micro-batches, label smoothing, mixup and moving averages in the steps of a run."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recu_jax import UserError
from recu_jax.data import augment
from recu_jax.models.own import in_training
from recu_jax.training.run import prepare
from recu_jax.training.step import create_state, replicate
from tests.support.small_runs import digits

SLOW = pytest.mark.slow
# Models without and with batch norm.
NET, WITH_NORM = "tests.support.own_module:WithLayerNorm", "tests.support.own_module:WithBatchNorm"
BOP = {"optimizer": "bop", "weight_binarizer": "clipped_sign", "bop_threshold": 0.0, "bop_gamma": 0.5}


def prepared(devices=1, model=NET, **fields):
    return prepare(digits(model=model, num_devices=devices, dtype="float64", learning_rate=0.01, **fields))


def steps(run, count=2):
    """Returns the state before the first step and after each dispatch, and the metrics of each step, as host arrays."""
    state = create_state(run.recipe, run.config.seed, run.feed.image_shape)
    states, losses, step, done = [jax.device_get(state)], {"loss": [], "top1": []}, run.feed.step(run.recipe), 0
    state = replicate(state, run.devices)
    run.feed.start(0)
    while done < count:
        taken, arguments = run.feed.take(done, None)
        state, metrics = step(state, {}, *arguments)
        done += taken
        states.append(jax.device_get(state))
        for name, values in losses.items():
            values += np.asarray(metrics[name]).tolist()
    return states, losses


def assert_close(a, b, rtol=1e-9):
    def check(x, y):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * max(np.abs(y).max(), 1e-3))

    jax.tree.map(check, a, b)


def assert_losses_close(a, b):
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-9)
    np.testing.assert_allclose(a["top1"], b["top1"], rtol=1e-6)  # top1 is float32


def first_batch(run):
    """Returns normalized images and labels of the first step, without augmentation."""
    dataset, indices = run.feed._dataset, run.feed.records(0)
    return (dataset.train_images[indices] / 255 - dataset.mean) / dataset.std, dataset.train_labels[indices]


def logits_of(run, state, x):
    model = run.recipe.model
    return np.asarray(jax.jit(lambda v, x: in_training(model, v, x, run.recipe.tau(0), None)[0])(state.variables, x))


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "devices,parts,fields",
    [
        (2, 2, {}),
        pytest.param(4, 4, {"mixup_alpha": 0.4}, marks=SLOW),
        pytest.param(4, 4, {"optimizer": "adam"}, marks=SLOW),
        pytest.param(4, 4, BOP, marks=SLOW),
    ],
    ids=["sgd", "mixup", "adam", "bop"],
)
def test_micro_batches_equal_the_large_batch(devices, parts, fields):
    whole, losses = steps(prepared(devices, **fields))
    parts, losses_parts = steps(prepared(devices, gradient_accumulation_steps=parts, **fields))
    assert_losses_close(losses_parts, losses)
    assert_close(parts[-1].params, whole[-1].params)
    assert int(parts[-1].step) == 2
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), whole[0].params, whole[-1].params)
    assert min(jax.tree.leaves(moved["binary"])) > 0


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_micro_batches_in_a_scan_and_in_many_steps_of_a_dispatch():
    fields = {"gradient_accumulation_steps": 2}
    unrolled, losses = steps(prepared(2, **fields))
    run = prepared(2, steps_per_dispatch=2, **fields)
    assert run.recipe.unrolled and not run.recipe.together  # the defaults on the CPU
    scanned, losses_scanned = steps(dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, unrolled=False)))
    assert_losses_close(losses_scanned, losses)
    assert_close(scanned[-1].params, unrolled[-1].params)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_batch_norm_normalizes_each_micro_batch_and_its_statistics_move_with_each():
    run = prepared(model=WITH_NORM, gradient_accumulation_steps=2, augment=False)
    states, losses = steps(run, 1)
    x, labels = first_batch(run)
    halves = [(x[:16], labels[:16]), (x[16:], labels[16:])]
    first = np.stack(
        [optax.softmax_cross_entropy_with_integer_labels(logits_of(run, states[0], a), b).mean() for a, b in halves]
    )
    np.testing.assert_allclose(losses["loss"], first.mean(), rtol=1e-10)
    conv = nn.Conv(8, (3, 3), param_dtype=np.float64)
    means = [conv.apply({"params": states[0].params["first"]}, half).mean((0, 1, 2)) for half, _ in halves]
    expected = 0.99 * 0.01 * means[0] + 0.01 * means[1]
    np.testing.assert_allclose(states[1].batch_stats["norm"]["mean"], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "fields,message",
    [
        (
            {"gradient_accumulation_steps": 3, "num_devices": 4, "batch_size": 32},
            "batch_size is 32, which does not divide over 4 devices and 3 gradient_accumulation_steps; "
            "use a multiple of 12",
        ),
        (
            {"gradient_accumulation_steps": 5, "batch_size": 32},
            "does not divide over 1 device and 5 gradient_accumulation_steps; use a multiple of 5",
        ),
        (
            {"mixup_alpha": 0.2, "gradient_accumulation_steps": 2, "num_devices": 2, "batch_size": 36},
            "config.mixup_alpha is 0.2, which mixes pairs of images, and a device gets 9 at a time; let "
            "config.batch_size be a multiple of 8",
        ),
    ],
)
def test_batches_that_cannot_be_split(fields, message):
    with pytest.raises(UserError, match=message):
        prepare(digits(**fields))


@pytest.mark.usefixtures("x64")
def test_label_smoothing_in_a_step():
    run = prepared(label_smoothing=0.1, augment=False)
    states, losses = steps(run, 1)
    x, labels = first_batch(run)
    logs = log_softmax(logits_of(run, states[0], x))
    q = np.full((32, 10), 0.01)
    q[np.arange(32), labels] = 0.91
    np.testing.assert_allclose(losses["loss"], -(q * logs).sum(1).mean(), rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_mixup_in_a_step(monkeypatch):
    """Sets the mixup shares. Checks the mixed images, the loss with both labels, and top-1."""
    shares = np.random.default_rng(0).random(32)
    monkeypatch.setattr(augment, "mixup_shares", lambda *_: jnp.asarray(shares))
    run = prepared(mixup_alpha=0.2, label_smoothing=0.1, crop_padding=0)
    states, metrics = steps(run, 1)
    x, labels = first_batch(run)
    swap = np.arange(32) ^ 1
    logits = logits_of(run, states[0], shares[:, None, None, None] * x + (1 - shares)[:, None, None, None] * x[swap])
    logs = log_softmax(logits)
    q = np.full((32, 10), 0.01)
    np.add.at(q, (np.arange(32), labels), 0.9 * shares)
    np.add.at(q, (np.arange(32), labels[swap]), 0.9 * (1 - shares))
    np.testing.assert_allclose(metrics["loss"], -(q * logs).sum(1).mean(), rtol=1e-10)
    hits = [logits.argmax(1) == a for a in (labels, labels[swap])]
    assert hits[0].any()
    np.testing.assert_allclose(metrics["top1"], 100 * (shares * hits[0] + (1 - shares) * hits[1]).mean(), rtol=1e-10)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_mixup_depends_on_seed_step_and_position_alone(monkeypatch):
    one, losses = steps(prepared(1, mixup_alpha=0.2))
    four, losses_four = steps(prepared(4, mixup_alpha=0.2))
    assert_losses_close(losses_four, losses)
    assert_close(four[-1].params, one[-1].params)

    drawn = []
    original = augment.mixup_shares

    def shares(*arguments):
        found = original(*arguments)
        jax.debug.callback(drawn.append, found)
        return found

    monkeypatch.setattr(augment, "mixup_shares", shares)
    steps(prepared(mixup_alpha=2.0))
    steps(prepared(mixup_alpha=2.0, seed=1), 1)
    jax.effects_barrier()
    assert len(drawn) == 3 and len(np.unique(np.concatenate(drawn))) == 96


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("model", [NET, pytest.param(WITH_NORM, marks=SLOW)])
def test_averages_follow_parameters_and_statistics(model):
    decay = 0.25
    states, _ = steps(prepared(2, model=model, ema_decay=decay), 4)
    average = states[0].variables
    for t, state in enumerate(states[1:]):
        d = min(decay, (1 + t) / (10 + t))
        average = jax.tree.map(lambda a, b, d=d: d * a + (1 - d) * b, average, state.variables)
    assert (1 + 2) / (10 + 2) == decay  # the ramp ends within these steps
    assert_close(states[-1].ema, average)
    jax.tree.map(np.testing.assert_array_equal, states[-1].result.variables, states[-1].ema)
    without, _ = steps(prepared(2, model=model), 4)
    assert without[-1].ema is None
    jax.tree.map(np.testing.assert_array_equal, without[-1].params, states[-1].params)
