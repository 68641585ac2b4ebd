"""Tests which crop of an image a step sees, for each (seed, step, position), and what a step keeps of its batch.

The networks here are at most one matrix product, so the state after a step shows what the step saw.
"""

import dataclasses
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recu_jax.data import Dataset
from recu_jax.data.order import train_order
from recu_jax.training import step as train
from recu_jax.training.checkpoint import Checkpoints, saved
from recu_jax.training.feed import ResidentFeed
from recu_jax.training.recipe import make_recipe
from tests.support.small_runs import dataset, digits

SIDE, SEED = 8, 5
DEVICES = jax.local_devices()


class Linear(nn.Module):
    """Two logits, linear in all pixels, with weights that start at 0.

    A step of gradient descent at rate 1 on an image of class 0 gives logit 0 the weights image / 2.
    """

    @nn.compact
    def __call__(self, x, tau=None, train=False, progress=None):
        return nn.Dense(2, use_bias=False, kernel_init=nn.initializers.zeros)(x.reshape(len(x), -1))


class MeanOfBatch(nn.Module):
    """A model that stores the mean of its last training batch in `batch_stats`."""

    @nn.compact
    def __call__(self, x, tau=None, train=False, progress=None):
        mean = self.variable("batch_stats", "mean", jnp.zeros, ())
        if train and not self.is_initializing():
            mean.value = x.mean()
        return nn.Dense(2)(x.reshape(len(x), -1))


def recipe_of(model, **fields):
    """Returns a recipe with the given model, gradient descent at rate 1, and pixels that are only divided by 255."""
    recipe = make_recipe(digits(seed=SEED, batch_size=4, **fields), dataset(SIDE, 1), steps_per_epoch=9)
    return dataclasses.replace(recipe, model=model, optimizer=optax.sgd(1.0), mean=(0.0,), std=(1.0,))


def seen(recipe, step, position, image):
    """Returns the pixels that `train_step` gives the network for an image at a position of the batch."""
    state = train.create_state(recipe, SEED, image.shape).replace(step=jnp.int32(step))
    one = jax.vmap(partial(train.train_step, recipe=recipe), (None, None, 0, 0, 0), axis_name="devices", out_axes=None)
    positions = np.full((1, 1), position)
    after, _ = one(state, {}, image[None, None], np.zeros((1, 1), np.int32), positions)
    pixels = np.asarray(after.params["Dense_0"]["kernel"])[:, 0] * 2 * 255
    return np.rint(pixels).astype(int).reshape(image.shape)


def cropped(seed, step, position, image, padding, flip, mode="constant"):
    """Computes what `seen` must return, in NumPy.

    The random key is the second of the two keys of the seed, folded with the step and then with the position.
    """
    key = jax.random.split(jax.random.key(seed))[1]
    for number in (step, position):
        key = jax.random.fold_in(key, number)
    crop_key, flip_key = jax.random.split(key)
    top, left = np.asarray(jax.random.randint(crop_key, (2,), -padding, padding + 1)) + padding
    whole = np.pad(image, [(padding, padding), (padding, padding), (0, 0)], mode)
    window = whole[top : top + SIDE, left : left + SIDE]
    return window[:, ::-1] if flip and jax.random.bernoulli(flip_key) else window


@pytest.mark.parametrize(
    "flip,fill,mode",
    [
        (True, "zeros", "constant"),
        (True, "reflection", "reflect"),
        pytest.param(False, "zeros", "constant", marks=pytest.mark.slow),
    ],
)
def test_an_image_is_cropped_and_mirrored_by_seed_step_and_position(flip, fill, mode):
    image = dataset(SIDE, 1).train_images[0]
    recipe = recipe_of(Linear(), crop_padding=2, crop_fill=fill, flip=flip, augment=True)
    places = [(0, 0), (1, 0), (0, 1), (7, 3)]
    got = [seen(recipe, step, position, image) for step, position in places]
    for (step, position), pixels in zip(places, got, strict=True):
        np.testing.assert_array_equal(pixels, cropped(SEED, step, position, image, 2, flip, mode))
    assert len({pixels.tobytes() for pixels in got}) == len(places)


class OneColumnPerImage(nn.Module):
    """Returns nine logits that are always 0, with the gradients of a linear layer.

    Train it on batches of 4 images of classes 0 to 7, by gradient descent with rate 1. Take the weights of class c, and
    subtract those of class 8. This is the sum of the images of class c, divided by 4.
    """

    @nn.compact
    def __call__(self, x, tau=None, train=False, progress=None):
        y = nn.Dense(9, use_bias=False, kernel_init=nn.initializers.zeros)(x.reshape(len(x), -1))
        return y - jax.lax.stop_gradient(y)


@cache
def epoch_of(devices, micro_batches, steps_per_dispatch):
    """Returns eight images, and a function that returns what the network sees of each of them in an epoch."""
    images = dataset(SIDE, 1).train_images[:8]
    labels = np.arange(8, dtype=np.int32)
    recipe = recipe_of(OneColumnPerImage(), crop_padding=2, flip=True, augment=True)
    recipe = dataclasses.replace(recipe, micro_batches=micro_batches)
    config = digits(seed=SEED, batch_size=4, steps_per_dispatch=steps_per_dispatch)
    data = Dataset(images, labels, images, labels, 9, (0.0,), (1.0,))
    feed = ResidentFeed(config, data, DEVICES[:devices])
    feed.start(0)
    train_steps, new = feed.step(recipe), train.create_state(recipe, SEED, (SIDE, SIDE, 1))

    def run(epoch):
        step = 2 * epoch
        state = train.replicate(new.replace(step=jnp.int32(step)), DEVICES[:devices])
        while step < 2 * epoch + 2:
            steps, arguments = feed.take(step, None)
            state, _ = train_steps(state, {}, *arguments)
            step += steps
        weights = np.asarray(state.params["Dense_0"]["kernel"])
        pixels = np.rint((weights[:, :8] - weights[:, 8:]) * 4 * 255).astype(int)
        return pixels.T.reshape(images.shape)

    return images, run


@pytest.mark.parametrize(
    "devices,micro_batches,steps_per_dispatch",
    [
        (4, 1, 2),
        (1, 4, 1),
        pytest.param(2, 2, 2, marks=pytest.mark.slow),
        pytest.param(1, 1, 1, marks=pytest.mark.slow),
    ],
)
@settings(max_examples=3)
@given(epoch=st.integers(0, 10**6))
def test_no_split_of_a_batch_changes_what_a_step_sees(devices, micro_batches, steps_per_dispatch, epoch):
    images, run = epoch_of(devices, micro_batches, steps_per_dispatch)
    expected = np.empty(images.shape, int)
    for row, batch in enumerate(train_order(SEED, epoch, 8, 4)):
        for position, image in enumerate(batch):
            expected[image] = cropped(SEED, 2 * epoch + row, position, images[image], 2, True)
    np.testing.assert_array_equal(run(epoch), expected)


def test_without_augmentation_a_step_sees_the_image_itself():
    image = dataset(SIDE, 1).train_images[0]
    recipe = recipe_of(Linear(), crop_padding=2, flip=True, augment=False)
    for step in range(6):
        np.testing.assert_array_equal(seen(recipe, step, 0, image), image)


def test_initial_parameters_are_those_of_the_seeds_first_key():
    """Augmentation has the second key. With one key for both, their random numbers would be correlated."""
    model = nn.Dense(3)
    recipe = recipe_of(model)
    expected = model.init(jax.random.split(jax.random.key(SEED))[0], jnp.zeros((1, SIDE, SIDE, 1)))
    got = train.create_state(recipe, SEED, (SIDE, SIDE, 1)).params
    jax.tree.map(np.testing.assert_array_equal, got, expected["params"])
    assert (jax.random.key_data(recipe.augment_key) != jax.random.key_data(jax.random.key(SEED))).any()


def test_the_result_of_a_run_has_the_moving_averages_if_it_keeps_them():
    state = train.TrainState(np.int32(3), {"w": 1.0}, {"mean": 2.0}, ())
    assert state.result is state
    averaged = state.replace(ema={"params": {"w": 0.5}, "batch_stats": {"mean": 0.25}})
    assert averaged.result.variables == averaged.ema and averaged.variables == state.variables


def test_running_statistics_are_the_mean_over_devices_on_each_of_them():
    data = dataset(SIDE, 1)
    recipe = recipe_of(MeanOfBatch(), augment=False)
    state = train.replicate(train.create_state(recipe, SEED, (SIDE, SIDE, 1)), DEVICES)
    step = train.parallel(
        partial(train.train_streamed, recipe=recipe), DEVICES, (False, False, True, True), donate=False
    )
    images = data.train_images[:8].reshape(4, 2, SIDE, SIDE, 1)
    after, _ = step(state, {}, images, np.zeros((4, 2), np.int32))
    mean = after.batch_stats["mean"]
    copies = [np.asarray(shard.data) for shard in mean.addressable_shards]
    assert len(copies) == 4 and len({float(c) for c in copies}) == 1
    np.testing.assert_allclose(copies[0], images.mean() / 255, rtol=1e-6)


def test_a_step_frees_the_memory_of_the_state_before_it():
    c, data = digits(batch_size=4, augment=False), dataset(SIDE, 1)
    recipe = recipe_of(Linear())
    feed = ResidentFeed(c, data, DEVICES[:1])
    feed.start(0)
    before = train.replicate(train.create_state(recipe, SEED, (SIDE, SIDE, 1)), DEVICES[:1])
    _, arguments = feed.take(0, None)
    feed.step(recipe)(before, {}, *arguments)
    assert before.params["Dense_0"]["kernel"].is_deleted()


@pytest.fixture(scope="module")
def run():
    """Returns the state of a new run, and `run(state, first, end)`, which trains a state from step `first` to `end`."""
    recipe = dataclasses.replace(recipe_of(Linear(), crop_padding=2), optimizer=optax.sgd(0.1, momentum=0.9))
    feed = ResidentFeed(digits(seed=SEED, batch_size=4), dataset(SIDE, 1), DEVICES[:1])
    step = feed.step(recipe)

    def run(state, first, end):
        feed.start(first)
        state = train.replicate(state, DEVICES[:1])
        while first < end:
            taken, arguments = feed.take(first, None)
            state, _ = step(state, {}, *arguments)
            first += taken
        return jax.device_get(state)

    return jax.device_get(train.create_state(recipe, SEED, (SIDE, SIDE, 1))), run


@settings(max_examples=4)
@given(stop=st.integers(1, 11))
def test_from_a_checkpoint_of_any_step_a_run_ends_as_one_that_never_stopped(run, tmp_path_factory, stop):
    new, run = run
    workdir = tmp_path_factory.mktemp("run")
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(run(new, 0, stop), {}, {"epoch": 0}, {"epoch": 0})
    (checkpoint,) = saved(workdir)
    assert checkpoint.step == stop
    # An epoch has 9 steps. So the last 3 of the 12 steps belong to the second epoch.
    jax.tree.map(np.testing.assert_array_equal, run(checkpoint.state(new), stop, 12), run(new, 0, 12))


class NotFiniteAtZero(nn.Module):
    """A model that returns NaN for an image of zeros."""

    @nn.compact
    def __call__(self, x):
        return jnp.stack([x.sum((1, 2, 3)) / x.max((1, 2, 3)), x.max((1, 2, 3))], 1)


def test_padding_of_an_evaluation_batch_may_give_nan():
    recipe = recipe_of(NotFiniteAtZero())
    images = np.stack([dataset(SIDE, 1).test_images[0], np.zeros((SIDE, SIDE, 1), np.uint8)])
    state = train.TrainState(np.int32(0), {}, {}, ())
    step = jax.vmap(partial(train.eval_streamed, recipe=recipe), (None, 0, 0, 0), axis_name="devices", out_axes=None)
    sums = step(state, images[None], np.zeros((1, 2), np.int32), np.array([[1.0, 0.0]], np.float32))
    assert sums["images"] == 1 and np.isfinite(sums["loss"])
