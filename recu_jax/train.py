"""One training run's state, its train and evaluation step, and how both spread over devices.

`train_step` and `eval_step` are pure functions of what one device sees. `parallel` is the only place that knows of
several devices; the state goes in and comes out as one copy, never stacked.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax import lax

from recu_jax import layers, schedules
from recu_jax.data import Dataset, augment
from recu_jax.errors import UserError
from recu_jax.models import create_model

AXIS = "devices"


@flax.struct.dataclass
class TrainState:
    """What a run is at one moment; all of it is saved. Everything random is a function of (seed, step)."""

    step: jax.Array  # int32, (): optimiser steps done
    params: Any
    batch_stats: Any
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that a step needs and that does not change during a run."""

    model: nn.Module
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    tau: optax.Schedule
    augment_key: jax.Array
    crop_padding: int
    flip: bool
    mean: Sequence[float]
    std: Sequence[float]
    dtype: Any


def make_recipe(config: ml_collections.ConfigDict, dataset: Dataset, steps_per_epoch: int) -> Recipe:
    """Derives everything a step needs from the config.

    Raises:
      UserError: float64 is asked for and JAX was not started with it.
    """
    if config.dtype == "float64" and not jax.config.jax_enable_x64:
        raise UserError("config.dtype is 'float64'; JAX must be started with it: set JAX_ENABLE_X64=1")
    dtype = jnp.dtype(config.dtype)
    conv = layers.Conv
    if config.conv == "binary":
        conv = functools.partial(
            layers.BinaryConv, scale=config.scale, standardize=config.standardize, clamp=config.clamp
        )
    model = create_model(
        config.model,
        dataset.num_classes,
        dtype=dtype,
        param_dtype=jnp.promote_types(dtype, jnp.float32),
        conv=conv,
        norm_axis=AXIS if config.global_batch_norm else None,
    )
    learning_rate = _learning_rate(config, steps_per_epoch)
    if config.optimizer == "sgd":
        update = optax.sgd(learning_rate, config.momentum or None)
    else:
        update = optax.adam(learning_rate)
    return Recipe(
        model=model,
        # PyTorch's order: the decay joins the gradient before the momentum, and the rate comes last.
        optimizer=optax.chain(optax.add_decayed_weights(config.weight_decay), update),
        learning_rate=learning_rate,
        tau=schedules.exponential_tau(config.epochs, steps_per_epoch, config.tau_min, config.tau_max),
        augment_key=jax.random.split(jax.random.key(config.seed))[1],
        crop_padding=config.crop_padding,
        flip=config.flip,
        mean=dataset.mean,
        std=dataset.std,
        dtype=dtype,
    )


def _learning_rate(config, steps_per_epoch):
    common = {"steps_per_epoch": steps_per_epoch, "warmup_epochs": config.warmup_epochs}
    if config.lr_schedule == "step":
        return schedules.step_learning_rate(config.learning_rate, config.lr_milestones, **common)
    schedule = {"cosine": schedules.cosine_learning_rate, "linear": schedules.linear_learning_rate}
    return schedule[config.lr_schedule](config.learning_rate, config.epochs, **common)


def create_state(recipe: Recipe, seed: int, image_shape: Sequence[int]) -> TrainState:
    """The state before the first step, for images of (height, width, channels)."""

    def init(key):
        variables = recipe.model.init(key, jnp.zeros((1, *image_shape), recipe.dtype))
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, recipe.optimizer.init(params))

    return jax.jit(init)(jax.random.split(jax.random.key(seed))[0])


def train_step(
    state: TrainState, images: jax.Array, labels: jax.Array, positions: jax.Array, recipe: Recipe
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimiser step on this device's part of a batch, within a mapped axis `AXIS`.

    Args:
      state: the same on every device.
      images: uint8, (batch, height, width, channels).
      labels: int32, (batch,).
      positions: int32, (batch,): where each image stands in the whole batch; with the step it makes the image's key,
        so that augmentation does not depend on the number of devices.
      recipe: what does not change.

    Returns:
      The next state, and `loss` and `top1` (percent) of this step over all devices.
    """
    key = jax.random.fold_in(recipe.augment_key, state.step)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(positions)
    if recipe.crop_padding or recipe.flip:
        images = augment.crop_and_flip(keys, images, recipe.crop_padding, recipe.flip)
    x = augment.normalize(images, recipe.mean, recipe.std, recipe.dtype)

    def loss_fn(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, changed = recipe.model.apply(
            variables, x, tau=recipe.tau(state.step), train=True, mutable=["batch_stats"]
        )
        logits = _wide(logits)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, (logits, changed.get("batch_stats", {}))

    (loss, (logits, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    top1 = 100 * (logits.argmax(-1) == labels).mean()
    # Running statistics are averaged too: each device has seen other images, and the state is one.
    grads, batch_stats, loss, top1 = lax.pmean((grads, batch_stats, loss, top1), AXIS)
    updates, opt_state = recipe.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, batch_stats, opt_state), {"loss": loss, "top1": top1}


def train_steps(
    state: TrainState, images: jax.Array, labels: jax.Array, order: jax.Array, recipe: Recipe
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Consecutive steps in one dispatch, on a data set that lives on the device.

    Args:
      state: before the first of them.
      images, labels: the whole training set.
      order: int32, (steps, batch on this device): indices into it.

    Returns:
      The state after the last step, and the metrics of each: arrays of (steps,).
    """
    batch = order.shape[1]
    positions = lax.axis_index(AXIS) * batch + jnp.arange(batch)

    def one(state, indices):
        return train_step(state, images[indices], labels[indices], positions, recipe)

    if len(order) == 1:  # a scan would cost the CPU 30 times the step
        state, metrics = one(state, order[0])
        return state, jax.tree.map(lambda m: m[None], metrics)
    return lax.scan(one, state, order)


def eval_step(
    state: TrainState, images: jax.Array, labels: jax.Array, indices: jax.Array, weights: jax.Array, recipe: Recipe
) -> dict[str, jax.Array]:
    """Weighted sums over one batch of all devices: `loss`, `top1`, `top5` (counts) and `images`.

    Args:
      state: its parameters and running statistics are used.
      images, labels: the whole test set, on the device.
      indices: int32, (batch on this device,) into it.
      weights: (batch,): 1, or 0 for what only fills up the batch.
    """
    x = augment.normalize(images[indices], recipe.mean, recipe.std, recipe.dtype)
    labels = labels[indices]
    logits = _wide(recipe.model.apply({"params": state.params, "batch_stats": state.batch_stats}, x))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    _, best = lax.top_k(logits, min(5, logits.shape[-1]))
    hits = best == labels[:, None]
    sums = {"loss": losses, "top1": hits[:, 0], "top5": hits.any(-1), "images": jnp.ones_like(weights)}
    return lax.psum({k: (v * weights).sum() for k, v in sums.items()}, AXIS)


def _wide(logits: jax.Array) -> jax.Array:
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def parallel(function: Callable, devices: Sequence[jax.Device], mapped: Sequence[bool], donate: bool) -> Callable:
    """`function` jitted and spread over `devices` along the axis `AXIS`.

    Args:
      function: what one device does; its results must be the same on all of them.
      devices: where it runs.
      mapped: for each argument, whether it has a leading axis with one entry a device; others are the same on all.
      donate: whether the first argument's memory is given to the results.
    """
    return jax.pmap(
        function,
        axis_name=AXIS,
        in_axes=tuple(0 if m else None for m in mapped),
        out_axes=None,
        devices=list(devices),
        donate_argnums=(0,) if donate else (),
    )


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """`tree` on every device, in the form in which `parallel` functions take and return it without a copy."""
    copy = parallel(lambda tree, _: tree, devices, mapped=(False, True), donate=False)
    return copy(tree, jnp.zeros(len(devices)))
