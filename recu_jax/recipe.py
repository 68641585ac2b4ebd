"""From a config to what a training step needs: model, teacher, optimiser, schedules, normalisation."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax

from recu_jax import layers, optimizers, schedules
from recu_jax.data import Dataset, Photos
from recu_jax.errors import UserError
from recu_jax.models import create_model

# Name of the mapped axis over which a step spreads; see `recu_jax.train.parallel`.
AXIS = "devices"
# A step's number is an int32.
_MOST_STEPS = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that a step needs and that does not change during a run, except arrays."""

    model: nn.Module
    teacher: nn.Module | None
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    tau: optax.Schedule
    augment_key: jax.Array
    crop_padding: int
    flip: bool
    mean: Sequence[float]
    std: Sequence[float]
    dtype: Any


def make_recipe(config: ml_collections.ConfigDict, dataset: Dataset | Photos, steps_per_epoch: int) -> Recipe:
    """Derives everything a step needs from the config.

    Raises:
      UserError: float64 is asked for and JAX was not started with it, or a field does not fit the data or the memory.
    """
    _check_sizes(config, dataset, steps_per_epoch)
    if config.dtype == "float64" and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise UserError("config.dtype is 'float64'; JAX must be started with it: set JAX_ENABLE_X64=1")
    model = make_model(config, dataset.num_classes)
    teacher = None
    if config.teacher:
        teacher = create_model(config.teacher_model, dataset.num_classes, conv=layers.Conv, **_types(config))
    learning_rate = _learning_rate(config, steps_per_epoch)
    on_device = config.augment and isinstance(dataset, Dataset)
    return Recipe(
        model=model,
        teacher=teacher,
        optimizer=_optimizer(config, learning_rate),
        learning_rate=learning_rate,
        tau=schedules.exponential_tau(config.epochs, steps_per_epoch, config.tau_min, config.tau_max),
        augment_key=jax.random.split(jax.random.key(config.seed))[1],
        crop_padding=config.crop_padding if on_device else 0,
        flip=config.flip and on_device,
        mean=dataset.mean,
        std=dataset.std,
        dtype=jnp.dtype(config.dtype),
    )


def make_model(config: ml_collections.ConfigDict, num_classes: int) -> nn.Module:
    """The network of a config."""
    return create_model(
        config.model,
        num_classes,
        conv=conv_of(config),
        norm_axis=AXIS if config.global_batch_norm else None,
        **_types(config),
    )


def _types(config):
    dtype = jnp.dtype(config.dtype)
    return {"dtype": dtype, "param_dtype": jnp.promote_types(dtype, jnp.float32)}


def _check_sizes(config, dataset, steps_per_epoch):
    if isinstance(dataset, Dataset):
        height, width, channels = dataset.train_images.shape[1:]
        if config.augment and config.crop_padding >= min(height, width):
            raise UserError(
                f"config.crop_padding is {config.crop_padding} and images are {height}x{width}; it must be less than "
                "their sides, or crops hold nothing but zeros"
            )
    else:
        height = width = config.image_size
        channels = 3
    for field in ("batch_size", "eval_batch_size"):
        nbytes = config[field] * height * width * channels
        if nbytes > _memory():
            raise UserError(
                f"config.{field} is {config[field]}: {nbytes / 2**30:.1f} GiB of {height}x{width} images, and this "
                f"machine has {_memory() / 2**30:.1f} GiB; use fewer"
            )
    if config.epochs * steps_per_epoch > _MOST_STEPS:
        raise UserError(
            f"config.epochs is {config.epochs}, of {steps_per_epoch} steps each; a run holds at most {_MOST_STEPS} "
            f"steps, {_MOST_STEPS // steps_per_epoch} epochs"
        )


def _memory():
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def conv_of(config: Any) -> Callable[..., nn.Module]:
    """What stands in the blocks of a model, by the fields `conv`, `scale`, `standardize` and `clamp`."""
    if config.conv == "float":
        return layers.Conv
    if config.conv == "binary_activations":
        # Real weights need no scale of their own: the second stage starts its alpha afresh.
        return functools.partial(layers.BinaryConv, scale="none", binary_weights=False)
    return functools.partial(layers.BinaryConv, scale=config.scale, standardize=config.standardize, clamp=config.clamp)


def _optimizer(config, learning_rate):
    if config.optimizer == "sgd":
        update = optax.sgd(learning_rate, config.momentum or None)
    else:
        update = optax.adam(learning_rate)
    mask = functools.partial(optimizers.decay_mask, groups=config.weight_decay_on)
    # PyTorch's order: the decay joins the gradient before the momentum, and the rate comes last.
    return optax.chain(optax.add_decayed_weights(config.weight_decay, mask), update)


def _learning_rate(config, steps_per_epoch):
    common = {"steps_per_epoch": steps_per_epoch, "warmup_epochs": config.warmup_epochs}
    if config.lr_schedule == "step":
        return schedules.step_learning_rate(config.learning_rate, config.lr_milestones, **common)
    schedule = {"cosine": schedules.cosine_learning_rate, "linear": schedules.linear_learning_rate}
    return schedule[config.lr_schedule](config.learning_rate, config.epochs, **common)
