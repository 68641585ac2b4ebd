"""Defines the state of a run, its training and evaluation steps, and `parallel`, which runs a step on several devices.

Each step is a pure function of the data on one device. The module `gradients` computes the gradients of a training
step, and gives the model the tau of the step. Only `parallel` maps a step over devices. The state is replicated: every
device holds the same copy. The copies are never stacked into one array.
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

from recu_jax.data import augment
from recu_jax.losses import cross_entropy
from recu_jax.ops.by_platform import by_platform
from recu_jax.ops.reductions import wide
from recu_jax.training import distributed
from recu_jax.training.gradients import Batch, gradients
from recu_jax.training.recipe import AXIS, Recipe


@flax.struct.dataclass
class TrainState:
    """The state of a run. Checkpoints save all of it.

    It holds no random key: each step derives its keys from the seed and the step number.

    Attributes:
      step: int32, (): optimizer steps done.
      params: of the model.
      batch_stats: running statistics of the model.
      opt_state: state of the optimizer.
      ema: exponential moving averages, `{"params": ..., "batch_stats": ...}`; None without `config.ema_decay`.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """The first argument of `model.apply`."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def result(self) -> "TrainState":
        """The state with the variables to evaluate and export: the moving averages, if the state has them."""
        return self if self.ema is None else self.replace(**self.ema)  # type: ignore[attr-defined]

    def starting_from(self, variables: Mapping[str, Any]) -> "TrainState":
        """Returns the state with `variables`. The moving averages, if there are any, start from them too."""
        return self.replace(**variables, ema=None if self.ema is None else dict(variables))  # type: ignore[attr-defined]


def create_state(recipe: Recipe, seed: int, image_shape: Sequence[int]) -> TrainState:
    """Initializes the state of a new run. `image_shape` is (height, width, channels)."""

    def init(key):
        variables = recipe.model.init(key, jnp.zeros((1, *image_shape), recipe.dtype))
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        ema = {"params": params, "batch_stats": batch_stats} if recipe.ema_decay else None
        return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, recipe.optimizer.init(params), ema)

    return jax.jit(init)(jax.random.split(jax.random.key(seed))[0])


def state_shapes(recipe: Recipe, image_shape: Sequence[int]) -> TrainState:
    """Returns the shapes and dtypes of the result of `create_state`. Computes and compiles nothing."""
    return jax.eval_shape(functools.partial(create_state, recipe, 0, image_shape))


def train_step(
    state: TrainState,
    teacher: Mapping[str, Any],
    images: jax.Array,
    labels: jax.Array,
    positions: jax.Array,
    recipe: Recipe,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Runs one optimizer step on this device's part of a batch. Call it inside the mapped axis `AXIS`.

    Args:
      state: the same on every device.
      teacher: variables of `recipe.teacher`, which do not change; empty without a teacher.
      images: uint8, (batch, height, width, channels).
      labels: int32, (batch,).
      positions: int32, (batch,): index of each image in the batch of all devices. The key of an image depends on the
        step and on this index, so augmentation does not depend on the number of devices.
      recipe: the constants of the run, and its schedules: tau, progress and learning rate of a step.

    Returns:
      The next state, and the metrics `loss` and `top1` (percent), averaged over all devices.
    """
    batch = Batch(images, labels, positions)
    (grads, loss, top1), batch_stats = gradients(state.variables, teacher, state.step, batch, recipe)
    # The devices see different images but must keep the same state, so the running statistics are averaged too.
    grads, batch_stats, loss, top1 = lax.pmean((grads, batch_stats, loss, top1), AXIS)
    grads = _in_order(grads)
    updates, opt_state = recipe.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = _moved(state, params, batch_stats, recipe.ema_decay)
    return TrainState(state.step + 1, params, batch_stats, opt_state, ema), {"loss": loss, "top1": top1}


def _in_order(gradients):
    """Makes GPUs write the gradients in the memory order of the parameters before they update the parameters.

    A convolution writes the gradient of its kernel in another order. Without this function, one operation would reorder
    the gradient and update the kernel. This operation could not write over its arguments, so XLA would copy both the
    kernel and its momentum.
    """

    def flat_first(gradient):
        # The numbers of a vector have one order only.
        if gradient.ndim < 2:
            return gradient
        return lax.optimization_barrier(jnp.ravel(gradient)).reshape(gradient.shape)

    def in_order(gradients):
        return jax.tree.map(flat_first, gradients)

    def same(gradients):
        return gradients

    return by_platform(gradients, cpu=same, gpu=in_order, default=same)


def _moved(state, params, batch_stats, decay):
    """Computes the exponential moving averages after a step: `d average + (1 - d) value`, where d is the decay."""
    if state.ema is None:
        return None
    # In the first steps d is smaller. Otherwise the averages of a short run would consist mostly of the initial values.
    decay = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
    return optax.incremental_update({"params": params, "batch_stats": batch_stats}, state.ema, 1 - decay)


def _positions(batch: int) -> jax.Array:
    """Returns the indices, (batch,), of this device's images in the batch of all devices."""
    return lax.axis_index(AXIS) * batch + jnp.arange(batch)


def train_resident(
    state: TrainState,
    teacher: Mapping[str, Any],
    images: jax.Array,
    labels: jax.Array,
    order: jax.Array,
    recipe: Recipe,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Runs consecutive steps in one dispatch, on a data set that lives on the device.

    Args:
      state: before the first step.
      teacher: as in `train_step`.
      images: of the whole training set, uint8, (images, height, width, channels).
      labels: of the whole training set, int32, (images,).
      order: int32, (steps, batch on this device): indices into the training set.
      recipe: the constants of the run, and its schedules: tau, progress and learning rate of a step.

    Returns:
      The state after the last step, and the metrics of all steps: arrays of shape (steps,).
    """
    positions = _positions(order.shape[1])

    def one(state, indices):
        return train_step(state, teacher, images[indices], labels[indices], positions, recipe)

    if len(order) == 1:  # on the CPU, a scan takes 30 times as long as the step
        return _with_steps_axis(one(state, order[0]))
    return lax.scan(one, state, order)


def train_streamed(
    state: TrainState, teacher: Mapping[str, Any], images: jax.Array, labels: jax.Array, recipe: Recipe
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Runs `train_step` on a batch sent to the device. Returns the same as `train_resident` with one step."""
    return _with_steps_axis(train_step(state, teacher, images, labels, _positions(len(labels)), recipe))


def _with_steps_axis(result):
    state, metrics = result
    return state, jax.tree.map(lambda m: m[None], metrics)


def eval_streamed(
    state: TrainState, images: jax.Array, labels: jax.Array, weights: jax.Array, recipe: Recipe
) -> dict[str, jax.Array]:
    """Evaluates one batch.

    Args:
      state: its parameters and running statistics are used.
      images: uint8, (batch on this device, height, width, channels).
      labels: int32, (batch on this device,).
      weights: float32, (batch on this device,): 1 for a test image, 0 for padding and for corrupt images.
      recipe: the constants of the run, and its schedules: tau, progress and learning rate of a step.

    Returns:
      Sums over the batch of all devices: `loss`, `top1` and `top5` (numbers of hits), and `images`.
    """
    x = augment.normalize(images, recipe.mean, recipe.std, recipe.dtype)
    logits: Any = recipe.model.apply(state.variables, x)
    logits = wide(logits)
    _, best = lax.top_k(logits, min(5, logits.shape[-1]))
    hits = best == labels[:, None]
    sums = {
        "loss": cross_entropy(logits, labels),
        "top1": hits[:, 0],
        "top5": hits.any(-1),
        "images": jnp.ones_like(weights),
    }
    # A product with the weight 0 is not enough: the loss of a padding image may be infinite, and 0 * inf is NaN.
    return lax.psum({k: jnp.where(weights > 0, v * weights, 0).sum() for k, v in sums.items()}, AXIS)


def eval_resident(
    state: TrainState, images: jax.Array, labels: jax.Array, indices: jax.Array, weights: jax.Array, recipe: Recipe
) -> dict[str, jax.Array]:
    """Evaluates one batch of a test set that lives on the device. Returns the same as `eval_streamed`.

    Args:
      state: as in `eval_streamed`.
      images: of the whole test set, uint8, (images, height, width, channels).
      labels: of the whole test set, int32, (images,).
      indices: int32, (batch on this device,): indices into the test set.
      weights: as in `eval_streamed`.
      recipe: the constants of the run, and its schedules: tau, progress and learning rate of a step.
    """
    return eval_streamed(state, images[indices], labels[indices], weights, recipe)


def parallel(function: Callable, devices: Sequence[jax.Device], mapped: Sequence[bool], donate: bool) -> Callable:
    """Jits `function` and maps it over `devices` along the axis `AXIS`.

    Args:
      function: the work of one device. All devices must return the same results.
      devices: of all processes. Every process must make the same call.
      mapped: one flag for each argument. True: the argument has a leading axis with one entry for each device of this
        process. False: all devices get the same value.
      donate: whether the results may reuse the memory of the first argument.
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
    """Copies `tree` to every device. Functions made by `parallel` take the result without a further copy."""
    if not jax.tree.leaves(tree):  # with several processes, pmap rejects an empty tree
        return tree
    # pmap needs at least one mapped argument, so `copy` has one that it does not use.
    copy = parallel(lambda tree, _: tree, devices, mapped=(False, True), donate=False)
    return copy(tree, np.zeros(len(distributed.local(devices)), np.float32))


def place(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Starts to send host arrays to the devices of this process.

    Args:
      tree: arrays of shape (batch of this process, ...).
      devices: of all processes.

    Returns:
      Arrays of shape (devices of this process, images for one device, ...).
    """
    devices = distributed.local(devices)
    mesh = jax.sharding.Mesh(np.asarray(devices), (AXIS,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))
    parts = jax.tree.map(lambda a: a.reshape(len(devices), -1, *a.shape[1:]), tree)
    return jax.device_put(parts, sharding)
