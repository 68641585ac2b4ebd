"""Computes the gradient for one optimizer step on one device.

Here are augmentation, mixup, the tau of the step, the call of the model, the loss, and the mean over micro-batches.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from recu_jax.data import augment
from recu_jax.losses import cross_entropy, distillation, feature_distance
from recu_jax.models.features import features, with_features
from recu_jax.models.own import in_training
from recu_jax.models.together import with_signs
from recu_jax.ops.reductions import wide
from recu_jax.training.recipe import Recipe


class Batch(NamedTuple):
    """This device's part of a batch.

    Attributes:
      images: uint8, (batch, height, width, channels).
      labels: int32, (batch,).
      positions: int32, (batch,): index of each image in the batch of all devices.
    """

    images: jax.Array
    labels: jax.Array
    positions: jax.Array


class Gradients(NamedTuple):
    """The gradient and the metrics of a step, as means over the images of this device.

    Attributes:
      params: gradient, in the structure of the parameters.
      loss: mean loss, a scalar.
      top1: top-1 accuracy in percent, a scalar.
    """

    params: Any
    loss: jax.Array
    top1: jax.Array


def gradients(
    variables: Mapping[str, Any], teacher: Mapping[str, Any], step: jax.Array, batch: Batch, recipe: Recipe
) -> tuple[Gradients, Any]:
    """Computes the gradient of the mean loss of a batch.

    The batch is split into `recipe.micro_batches` parts of equal size. The gradient is the mean over the parts. Batch
    norm normalizes each part with the statistics of that part, and each part updates the running statistics.

    Args:
      variables: `{"params": ..., "batch_stats": ...}`.
      teacher: variables of `recipe.teacher`; empty without a teacher.
      step: int32, (): optimizer steps done.
      batch: its size is a multiple of `recipe.micro_batches`.
      recipe: the constants of the run, and its schedules: tau, progress and learning rate of a step.

    Returns:
      The gradients, and the new running statistics.
    """
    params = variables["params"]
    of_part = functools.partial(_of_part, params, teacher, step, recipe)
    count = recipe.micro_batches
    if count == 1:
        return of_part(variables["batch_stats"], batch)
    parts = jax.tree.map(lambda a: a.reshape(count, -1, *a.shape[1:]), batch)

    def add(carry, part):
        total, batch_stats = carry
        found, batch_stats = of_part(batch_stats, part)
        return (jax.tree.map(jnp.add, total, found), batch_stats), None

    shapes, _ = jax.eval_shape(of_part, variables["batch_stats"], jax.tree.map(lambda a: a[0], parts))
    carry = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), variables["batch_stats"]
    if recipe.unrolled:
        for i in range(count):
            # The barrier makes each part wait for the part before, so that only one part's activations are in memory.
            carry, parts = lax.optimization_barrier((carry, parts))
            carry, _ = add(carry, jax.tree.map(lambda a, i=i: a[i], parts))
    else:
        carry, _ = lax.scan(add, carry, parts)
    total, batch_stats = carry
    return jax.tree.map(lambda a: a / count, total), batch_stats


def _of_part(params, teacher, step, recipe, batch_stats, batch):
    images, labels, positions = batch
    if recipe.crop_padding or recipe.flip:
        keys = _keys(jax.random.fold_in(recipe.augment_key, step), positions)
        images = augment.crop_and_flip(keys, images, recipe.crop_padding, recipe.flip, recipe.crop_fill)
    x = augment.normalize(images, recipe.mean, recipe.std, recipe.dtype)
    mixed = recipe.mixup_alpha > 0
    if mixed:
        keys = _keys(jax.random.fold_in(recipe.mixup_key, step), positions)
        shares = augment.mixup_shares(keys, recipe.mixup_alpha, jnp.promote_types(recipe.dtype, jnp.float32))
        x = augment.mixup(x, shares)
    tau = recipe.tau(step)
    progress = None if recipe.progress is None else recipe.progress(step)
    # With a teacher, the loss uses the teacher's outputs alone, not the labels (SPEC.md 7).
    targets, theirs = None, {}
    if recipe.teacher is not None:
        targets, theirs = jax.tree.map(wide, with_features(recipe.teacher, teacher, x))

    def of_labels(function):
        """Returns `function(labels)`. With mixup, averages it over the two labels of each image, weighted by share."""
        if not mixed:
            return function(labels)
        return shares * function(labels) + (1 - shares) * function(augment.partners(labels))

    def loss_fn(params):
        variables = {"params": params, "batch_stats": batch_stats}
        if recipe.together:
            variables = with_signs(recipe.model, variables, x, tau, progress)
        learns_features = recipe.feature_weight is not None
        logits, changed = in_training(recipe.model, variables, x, tau, progress, with_features=learns_features)
        logits = wide(logits)
        if targets is None:
            losses = of_labels(functools.partial(cross_entropy, logits, smoothing=recipe.label_smoothing))
        else:
            losses = distillation(logits, targets)
            if learns_features:
                distances = feature_distance(jax.tree.map(wide, features(changed)), theirs)
                losses += recipe.feature_weight(step) * distances
        return losses.mean(), (logits, changed.get("batch_stats", {}))

    (loss, (logits, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    top1 = 100 * of_labels(lambda labels: logits.argmax(-1) == labels).mean()
    return Gradients(grads, loss, top1), batch_stats


def _keys(key, positions):
    return jax.vmap(functools.partial(jax.random.fold_in, key))(positions)
