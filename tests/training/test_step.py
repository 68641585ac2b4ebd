"""Tests the train and evaluation step, on one device and on four."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recu_jax.config import base_config
from recu_jax.data import Dataset
from recu_jax.data.order import eval_order, train_order
from recu_jax.training import step as train
from recu_jax.training.feed import ResidentFeed
from recu_jax.training.feed.shares import split_over_devices
from recu_jax.training.recipe import make_recipe

DEVICES = jax.local_devices()


@pytest.fixture(scope="module")
def dataset():
    r = np.random.default_rng(0)
    images, labels = r.integers(0, 256, (50, 8, 8, 1), np.uint8), r.integers(0, 10, 50).astype(np.int32)
    return Dataset(images[:37], labels[:37], images[37:], labels[37:], 10, (0.5,), (0.25,))


SLOW = pytest.mark.slow
EVALUATIONS = [(4, 8), pytest.param(1, 5, marks=SLOW), pytest.param(4, 64, marks=SLOW)]


def config(**changes):
    c = base_config()
    c.dataset, c.model, c.batch_size, c.epochs = "digits", "digits_resnet8", 16, 2
    for name, value in changes.items():
        c[name] = value
    return c


def small_recipe(config, dataset):
    """Returns the recipe with one block of four channels and one of eight, which compiles in seconds.

    The tests need many values per channel. Sums of signs are integers. In about one of n channels, the mean of n sums
    equals one of these sums, and batch norm of this sum is 0. The sign of this 0 depends on rounding, which differs
    with the number of devices.
    """
    recipe = make_recipe(config, dataset, steps_per_epoch=2)
    return dataclasses.replace(recipe, model=recipe.model.clone(stage_sizes=(1, 1), widths=(4, 8)))


def run_steps(config, dataset, devices, steps=3, chunk=1):
    recipe = small_recipe(config, dataset)
    state = train.create_state(recipe, config.seed, dataset.train_images.shape[1:])
    state, images, labels = train.replicate((state, dataset.train_images, dataset.train_labels), devices)
    step = train.parallel(
        partial(train.train_resident, recipe=recipe), devices, mapped=(False, False, False, False, True), donate=True
    )
    order = np.concatenate([train_order(0, e, 37, config.batch_size) for e in range(2)])[:steps]
    order = split_over_devices(order, len(devices))
    losses = []
    for first in range(0, steps, chunk):
        state, metrics = step(state, {}, images, labels, order[:, first : first + chunk])
        losses.extend(np.asarray(metrics["loss"]))
    return jax.device_get(state), np.array(losses)


def assert_close(a, b, rtol):
    def check(x, y):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * max(np.abs(y).max(), 1e-3))

    jax.tree.map(check, a, b)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_four_devices_equal_one_with_global_batch_norm(dataset):
    c = config(dtype="float64", global_batch_norm=True)
    one, losses_one = run_steps(c, dataset, DEVICES[:1])
    four, losses_four = run_steps(c, dataset, DEVICES[:4])
    np.testing.assert_allclose(losses_one, losses_four, rtol=1e-10)
    assert int(four.step) == 3
    assert_close(one.params, four.params, 1e-7)
    assert_close(one.batch_stats, four.batch_stats, 1e-7)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_batch_norm_is_per_device_unless_asked(dataset):
    _, one = run_steps(config(dtype="float64"), dataset, DEVICES[:1], steps=1)
    _, four = run_steps(config(dtype="float64"), dataset, DEVICES[:4], steps=1)
    assert abs(one - four) > 1e-3


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_many_steps_in_one_dispatch_equal_single_ones(dataset):
    c = config(dtype="float64")
    single, losses_single = run_steps(c, dataset, DEVICES[:2], steps=4)
    many, losses_many = run_steps(c, dataset, DEVICES[:2], steps=4, chunk=2)
    np.testing.assert_allclose(losses_single, losses_many, rtol=1e-10)
    assert_close(single.params, many.params, 1e-7)


@partial(jax.jit, static_argnums=0)
def loss_and_gradients(model, params, stats, x, y, tau):
    def loss(params):
        variables = {"params": params, "batch_stats": stats}
        logits, changed = model.apply(variables, x, tau=tau, train=True, mutable=["batch_stats"])
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean(), changed["batch_stats"]

    return jax.value_and_grad(loss, has_aux=True)(params)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("optimizer", ["sgd", pytest.param("adam", marks=pytest.mark.slow)])
def test_one_step_against_the_formula(dataset, optimizer):
    c = config(dtype="float64", crop_padding=0, flip=False, optimizer=optimizer, warmup_epochs=0)
    recipe = small_recipe(c, dataset)
    state = jax.device_get(train.create_state(recipe, c.seed, (8, 8, 1)))
    after, losses = run_steps(c, dataset, DEVICES[:1], steps=2)
    params, stats = state.params, state.batch_stats
    first = second = jax.tree.map(np.zeros_like, params)
    tau = [0.85, 0.85]  # both steps are of epoch 0
    for t, indices in enumerate(train_order(0, 0, 37, 16)):
        x, y = (dataset.train_images[indices] / 255 - 0.5) / 0.25, dataset.train_labels[indices]
        (loss, stats), grads = jax.device_get(loss_and_gradients(recipe.model, params, stats, x, y, tau[t]))
        np.testing.assert_allclose(loss, losses[t], rtol=1e-9)
        grads = jax.tree.map(lambda g, p: g + 5e-4 * p, grads, params)
        if optimizer == "sgd":
            first = jax.tree.map(lambda m, g: 0.9 * m + g, first, grads)
            update = first
        else:
            first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
            second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, grads)
            update = jax.tree.map(
                lambda m, v: (m / (1 - 0.9 ** (t + 1))) / (np.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8), first, second
            )
        params = jax.tree.map(lambda p, u: p - 0.1 * u, params, update)
    # Batch norm undoes alpha, so the gradients of alpha are rounding errors. Adam divides them by their own size, so
    # with Adam the parameters are not compared.
    if optimizer == "sgd":
        assert_close(after.params, params, 1e-8)
    assert_close(after.batch_stats, stats, 1e-8)


@pytest.mark.slow
def test_bfloat16_keeps_parameters_statistics_and_loss_float32(dataset):
    state, losses = run_steps(config(dtype="bfloat16"), dataset, DEVICES[:2], steps=2)
    assert losses.dtype == np.float32 and np.isfinite(losses).all()
    floats = [a for a in jax.tree.leaves(state) if jnp.issubdtype(a.dtype, jnp.floating)]
    assert {a.dtype for a in floats} == {np.dtype("float32")}


@pytest.mark.parametrize("devices,batch", EVALUATIONS)
def test_every_test_image_counts_once(dataset, devices, batch):
    c = config(eval_batch_size=batch)
    recipe = small_recipe(c, dataset)
    state = train.create_state(recipe, 0, (8, 8, 1))
    devices = DEVICES[:devices]
    got = ResidentFeed(c, dataset, devices).evaluator(recipe)(train.replicate(state, devices))

    x = (dataset.test_images / 255 - np.array(0.5)) / 0.25
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = jax.jit(recipe.model.apply)(variables, x.astype(np.float32))
    labels = dataset.test_labels
    rank = (np.asarray(logits) > np.asarray(logits)[np.arange(13), labels][:, None]).sum(1)
    np.testing.assert_allclose(got["test_top1"], 100 * (rank < 1).mean(), rtol=1e-6)
    np.testing.assert_allclose(got["test_top5"], 100 * (rank < 5).mean(), rtol=1e-6)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    np.testing.assert_allclose(got["test_loss"], loss, rtol=1e-5)
    assert eval_order(13, batch)[1].sum() == 13
