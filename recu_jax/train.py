"""One training run's state, its train and evaluation step, and how both spread over devices.

The steps are pure functions of what one device sees. `parallel` is the only place that knows of several devices; the
state goes in and comes out as one copy, never stacked.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from recu_jax import distributed
from recu_jax.binarizers import Annealed
from recu_jax.data import augment
from recu_jax.losses import cross_entropy, distillation
from recu_jax.recipe import AXIS, Recipe


@flax.struct.dataclass
class TrainState:
    """What a run is at one moment; all of it is saved. Everything random is a function of (seed, step)."""

    step: jax.Array  # int32, (): optimiser steps done
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What the model is applied to."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(recipe: Recipe, seed: int, image_shape: Sequence[int]) -> TrainState:
    """The state before the first step, for images of (height, width, channels)."""

    def init(key):
        variables = recipe.model.init(key, jnp.zeros((1, *image_shape), recipe.dtype))
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, recipe.optimizer.init(params))

    return jax.jit(init)(jax.random.split(jax.random.key(seed))[0])


def state_shapes(recipe: Recipe, image_shape: Sequence[int]) -> TrainState:
    """Shapes and dtypes of `create_state`'s result, of which nothing is computed or compiled."""
    return jax.eval_shape(functools.partial(create_state, recipe, 0, image_shape))


def train_step(
    state: TrainState,
    teacher: Mapping[str, Any],
    images: jax.Array,
    labels: jax.Array,
    positions: jax.Array,
    recipe: Recipe,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimiser step on this device's part of a batch, within a mapped axis `AXIS`.

    Args:
      state: the same on every device.
      teacher: variables of `recipe.teacher`, which stay as they are; empty without one.
      images: uint8, (batch, height, width, channels).
      labels: int32, (batch,).
      positions: int32, (batch,): where each image stands in the whole batch; with the step it makes the image's key,
        so that augmentation does not depend on the number of devices.
      recipe: what does not change.

    Returns:
      The next state, and `loss` and `top1` (percent) of this step over all devices.
    """
    if recipe.crop_padding or recipe.flip:
        key = jax.random.fold_in(recipe.augment_key, state.step)
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(positions)
        images = augment.crop_and_flip(keys, images, recipe.crop_padding, recipe.flip)
    x = augment.normalize(images, recipe.mean, recipe.std, recipe.dtype)
    tau = recipe.tau(state.step)
    if recipe.progress is not None:
        tau = Annealed(tau, recipe.progress(state.step))
    # Taught, the network sees the teacher's labels alone (SPEC.md 7).
    targets = None if recipe.teacher is None else _wide(recipe.teacher.apply(teacher, x))

    def loss_fn(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, changed = recipe.model.apply(variables, x, tau=tau, train=True, mutable=["batch_stats"])
        logits = _wide(logits)
        losses = cross_entropy(logits, labels) if targets is None else distillation(logits, targets)
        return losses.mean(), (logits, changed.get("batch_stats", {}))

    (loss, (logits, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    top1 = 100 * (logits.argmax(-1) == labels).mean()
    # Running statistics are averaged too: each device has seen other images, and the state is one.
    grads, batch_stats, loss, top1 = lax.pmean((grads, batch_stats, loss, top1), AXIS)
    updates, opt_state = recipe.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, batch_stats, opt_state), {"loss": loss, "top1": top1}


def _positions(batch: int) -> jax.Array:
    """Places of this device's part, (batch,), in the batch of all devices."""
    return lax.axis_index(AXIS) * batch + jnp.arange(batch)


def train_steps(
    state: TrainState,
    teacher: Mapping[str, Any],
    images: jax.Array,
    labels: jax.Array,
    order: jax.Array,
    recipe: Recipe,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Consecutive steps in one dispatch, on a data set that lives on the device.

    Args:
      state: before the first of them.
      teacher: as in `train_step`.
      images, labels: the whole training set.
      order: int32, (steps, batch on this device): indices into it.

    Returns:
      The state after the last step, and the metrics of each: arrays of (steps,).
    """
    positions = _positions(order.shape[1])

    def one(state, indices):
        return train_step(state, teacher, images[indices], labels[indices], positions, recipe)

    if len(order) == 1:  # a scan would cost the CPU 30 times the step
        return _with_steps_axis(one(state, order[0]))
    return lax.scan(one, state, order)


def train_batch(
    state: TrainState, teacher: Mapping[str, Any], images: jax.Array, labels: jax.Array, recipe: Recipe
) -> tuple[TrainState, dict[str, jax.Array]]:
    """`train_step` on a batch that came to the device; returns as `train_steps` does, for one step."""
    return _with_steps_axis(train_step(state, teacher, images, labels, _positions(len(labels)), recipe))


def _with_steps_axis(result):
    state, metrics = result
    return state, jax.tree.map(lambda m: m[None], metrics)


def eval_batch(
    state: TrainState, images: jax.Array, labels: jax.Array, weights: jax.Array, recipe: Recipe
) -> dict[str, jax.Array]:
    """Weighted sums over one batch of all devices: `loss`, `top1`, `top5` (counts) and `images`.

    Args:
      state: its parameters and running statistics are used.
      images: uint8, (batch on this device, height, width, channels).
      labels: int32, (batch on this device,).
      weights: (batch on this device,): 1, or 0 for what only fills up the batch.
    """
    x = augment.normalize(images, recipe.mean, recipe.std, recipe.dtype)
    logits = _wide(recipe.model.apply(state.variables, x))
    _, best = lax.top_k(logits, min(5, logits.shape[-1]))
    hits = best == labels[:, None]
    sums = {
        "loss": cross_entropy(logits, labels),
        "top1": hits[:, 0],
        "top5": hits.any(-1),
        "images": jnp.ones_like(weights),
    }
    # Not a product: what fills up a batch may have any loss, also one that is not finite.
    return lax.psum({k: jnp.where(weights > 0, v * weights, 0).sum() for k, v in sums.items()}, AXIS)


def eval_step(
    state: TrainState, images: jax.Array, labels: jax.Array, indices: jax.Array, weights: jax.Array, recipe: Recipe
) -> dict[str, jax.Array]:
    """`eval_batch` on the images `indices`, int32, (batch on this device,), of a test set that lives on the device."""
    return eval_batch(state, images[indices], labels[indices], weights, recipe)


def _wide(logits: Any) -> jax.Array:
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def parallel(function: Callable, devices: Sequence[jax.Device], mapped: Sequence[bool], donate: bool) -> Callable:
    """`function` jitted and spread over `devices` along the axis `AXIS`.

    Args:
      function: what one device does; its results must be the same on all of them.
      devices: where it runs, those of other processes, which make the same call, among them.
      mapped: for each argument, whether it has a leading axis with one entry for each device of this process; others
        are the same on all.
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
    if not jax.tree.leaves(tree):  # which pmap does not take from several processes
        return tree
    copy = parallel(lambda tree, _: tree, devices, mapped=(False, True), donate=False)
    return copy(tree, np.zeros(len(distributed.local(devices)), np.float32))


def place(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Host arrays of (batch, ...) on their way to this process's `devices`, (devices, batch / devices, ...)."""
    devices = distributed.local(devices)
    mesh = jax.sharding.Mesh(np.asarray(devices), (AXIS,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))
    parts = jax.tree.map(lambda a: a.reshape(len(devices), -1, *a.shape[1:]), tree)
    return jax.device_put(parts, sharding)
