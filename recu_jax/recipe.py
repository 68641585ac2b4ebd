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

from recu_jax import binarizers, layers, optimizers, schedules
from recu_jax.bop import with_bop
from recu_jax.data import Dataset, Photos
from recu_jax.errors import UserError
from recu_jax.models import create_model

# Name of the mapped axis over which a step spreads; see `recu_jax.train.parallel`.
AXIS = "devices"
_TAU = {
    "exponential": schedules.exponential_tau,
    "linear": schedules.linear_tau,
    "cosine": schedules.cosine_tau,
}
# A step's number is an int32.
_MOST_STEPS = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that a step needs and that does not change during a run, except arrays.

    `progress` is None where no binarizer is annealed.
    """

    model: nn.Module
    teacher: nn.Module | None
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    tau: optax.Schedule
    progress: optax.Schedule | None
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
    image_shape = _image_shape(config, dataset)
    _check_sizes(config, dataset, image_shape, steps_per_epoch)
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
        optimizer=_optimizer(config, learning_rate, model, image_shape),
        learning_rate=learning_rate,
        tau=_TAU[config.tau_schedule](config.epochs, steps_per_epoch, config.tau_min, config.tau_max),
        progress=schedules.training_progress(config.epochs, steps_per_epoch) if _is_annealed(config) else None,
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
        **parts_of(config),
        norm_axis=AXIS if config.global_batch_norm else None,
        **_types(config),
    )


def _types(config):
    dtype = jnp.dtype(config.dtype)
    return {"dtype": dtype, "param_dtype": jnp.promote_types(dtype, jnp.float32)}


def _image_shape(config, dataset):
    if isinstance(dataset, Dataset):
        return dataset.train_images.shape[1:]
    return (config.image_size, config.image_size, 3)


def _check_sizes(config, dataset, image_shape, steps_per_epoch):
    height, width, channels = image_shape
    if isinstance(dataset, Dataset) and config.augment and config.crop_padding >= min(height, width):
        raise UserError(
            f"config.crop_padding is {config.crop_padding} and images are {height}x{width}; it must be less than "
            "their sides, or crops hold nothing but zeros"
        )
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


def parts_of(config: Any) -> dict[str, Any]:
    """Fields of a model for `create_model`: what stands in its blocks."""
    parts = {"conv": conv_of(config)}
    return parts | {"nonlinearity": config.nonlinearity} if config.nonlinearity else parts


def conv_of(config: Any) -> Callable[..., nn.Module]:
    """The convolutions of a model's blocks, by the fields `conv`, `scale`, and those of the binarizers and of ReCU."""
    if config.conv == "float":
        return layers.Conv
    activations = binarizers.activation_binarizer(config.activation_binarizer)
    if config.conv == "binary_activations":
        # Real weights need no scale of their own: the second stage starts its alpha afresh.
        return functools.partial(layers.BinaryConv, scale="none", binary_weights=False, activations=activations)
    weights = binarizers.weight_binarizer(
        config.weight_binarizer, standardize=config.standardize, clamp=config.clamp, b=config.laplace_b,
        centre=config.centre,
    )  # fmt: skip
    return functools.partial(layers.BinaryConv, scale=config.scale, weights=weights, activations=activations)


def _is_annealed(config):
    of_weights = config.conv == "binary" and binarizers.WEIGHTS[config.weight_binarizer].annealed
    return of_weights or (config.conv != "float" and binarizers.ACTIVATIONS[config.activation_binarizer].annealed)


def _optimizer(config, learning_rate, model, image_shape):
    if config.optimizer == "sgd":
        update = optax.sgd(learning_rate, config.momentum or None)
    else:
        update = optax.adam(learning_rate)
    mask = functools.partial(optimizers.decay_mask, groups=config.weight_decay_on)
    # PyTorch's order: the decay joins the gradient before the momentum, and the rate comes last.
    update = optax.chain(optax.add_decayed_weights(config.weight_decay, mask), update)
    if config.optimizer != "bop":
        return update
    kernels = layers.binary_kernels(model, jax.ShapeDtypeStruct((1, *image_shape), model.dtype))

    def gamma(step):
        return config.bop_gamma * learning_rate(step) / config.learning_rate

    return with_bop(update, kernels, config.bop_threshold, gamma)


def _learning_rate(config, steps_per_epoch):
    common = {"steps_per_epoch": steps_per_epoch, "warmup_epochs": config.warmup_epochs}
    if config.lr_schedule == "step":
        return schedules.step_learning_rate(config.learning_rate, config.lr_milestones, **common)
    schedule = {"cosine": schedules.cosine_learning_rate, "linear": schedules.linear_learning_rate}
    return schedule[config.lr_schedule](config.learning_rate, config.epochs, **common)
