"""Makes a `Recipe` from a config: model, teacher, optimizer, schedules, normalization."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax

from recu_jax import binarizers, layers, optimizers, schedules
from recu_jax.binary_layer import binary_layers
from recu_jax.config.fields import RECU_FIELDS
from recu_jax.config.rules import LATENT_FIELDS
from recu_jax.data import Dataset, Photos
from recu_jax.errors import UserError
from recu_jax.models import create_model, features, own
from recu_jax.models.unit import fused
from recu_jax.references import is_reference

# Name of the device axis that `training.step.parallel` maps over.
AXIS = "devices"
_TAU = {
    "exponential": schedules.exponential_tau,
    "linear": schedules.linear_tau,
    "cosine": schedules.cosine_tau,
}
# The step counter is an int32.
_MOST_STEPS = 2**31 - 1
# Folded into the augmentation key to make the mixup key. Step numbers are folded into the same key, and none is this
# large.
_MIXUP = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The constants of a run that a training step needs. Variables and images are not among them.

    Attributes:
      model: the network.
      teacher: the network whose outputs replace the labels; None without distillation.
      feature_weight: weight of `losses.feature_distance` in the loss, as a function of the step; None without it.
      optimizer: updates the model's parameters.
      learning_rate: function of the step.
      tau: function of the step.
      progress: training progress, from 0 to 1, as a function of the step; None if no binarizer is annealed.
      micro_batches: number of parts of a device's batch. One optimizer step uses the mean of their gradients.
      ema_decay: decay of the exponential moving averages; 0 without them.
      label_smoothing: as in `losses.cross_entropy`.
      mixup_alpha: of the Beta distribution of `augment.mixup_shares`; 0 without mixup.
      mixup_key: random key of the shares that mixup draws.
      augment_key: random key of the augmentation on the devices. `gradients` folds the step number into it.
      crop_padding: pixels added on each side before a random crop; 0 if the step does not crop.
      crop_fill: what these pixels are, one of `augment.CROP_FILLS`.
      flip: whether the step flips images at random.
      mean: of the data set, by channel.
      std: of the data set, by channel.
      dtype: of the activations.
      together: whether the weights of all layers are binarized together (`models.together`). This makes fewer and
        larger operations, which GPUs and TPUs need and CPUs do not.
      unrolled: whether the code of a micro-batch is repeated instead of using `lax.scan`. On CPUs, gradients of
        convolutions within `lax.scan` are 30 to 100 times slower.
    """

    model: nn.Module
    teacher: nn.Module | None
    feature_weight: optax.Schedule | None
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    tau: optax.Schedule
    progress: optax.Schedule | None
    micro_batches: int
    ema_decay: float
    label_smoothing: float
    mixup_alpha: float
    mixup_key: jax.Array
    augment_key: jax.Array
    crop_padding: int
    crop_fill: str
    flip: bool
    mean: Sequence[float]
    std: Sequence[float]
    dtype: Any
    together: bool = True
    unrolled: bool = False


def for_cpus(recipe: Recipe) -> Recipe:
    """Returns the recipe in the form that is fast on CPUs, with the same results up to rounding."""
    return dataclasses.replace(recipe, model=fused(recipe.model), together=False, unrolled=True)


def make_recipe(config: ml_collections.ConfigDict, dataset: Dataset | Photos, steps_per_epoch: int) -> Recipe:
    """Makes the recipe of a config.

    Raises:
      UserError: `config.dtype` is float64 and JAX was started without JAX_ENABLE_X64=1; a field does not fit the data
        or the memory of the machine; or a user's own model fails its checks.
    """
    image_shape = dataset.image_shape(config.image_size)
    _check_sizes(config, dataset, image_shape, steps_per_epoch)
    if config.dtype == "float64" and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise UserError("config.dtype is 'float64'; JAX must be started with it: set JAX_ENABLE_X64=1")
    model = make_model(config, dataset.num_classes)
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.dtype(config.dtype))
    if is_reference(config.model):
        own.check(config.model, model, image, dataset.num_classes, AXIS)
    teacher, feature_weight = None, None
    if config.teacher:
        parts = _parts(layers.Conv, config.teacher_nonlinearity)
        teacher = create_model(config.teacher_model, dataset.num_classes, **parts, **_types(config))
        if config.teacher_features:
            features.check(model, teacher, image, (config.model, config.teacher_model))
            feature_weight = schedules.feature_weight(config.teacher_features, config.epochs, steps_per_epoch)
    learning_rate = _learning_rate(config, steps_per_epoch)
    frozen = tuple(pattern.strip() for pattern in config.freeze.split(",")) if config.freeze else ()
    on_device = config.augment and dataset.in_memory
    augment_key = jax.random.split(jax.random.key(config.seed))[1]
    return Recipe(
        model=model,
        teacher=teacher,
        feature_weight=feature_weight,
        optimizer=optimizers.with_frozen(_optimizer(config, learning_rate, model, image_shape), frozen),
        learning_rate=learning_rate,
        tau=_TAU[config.tau_schedule](config.epochs, steps_per_epoch, config.tau_min, config.tau_max),
        progress=schedules.training_progress(config.epochs, steps_per_epoch) if _is_annealed(config) else None,
        micro_batches=config.gradient_accumulation_steps,
        ema_decay=config.ema_decay,
        label_smoothing=config.label_smoothing,
        mixup_alpha=config.mixup_alpha,
        mixup_key=jax.random.fold_in(augment_key, _MIXUP),
        augment_key=augment_key,
        crop_padding=config.crop_padding if on_device else 0,
        crop_fill=config.crop_fill,
        flip=config.flip and on_device,
        mean=dataset.mean,
        std=dataset.std,
        dtype=jnp.dtype(config.dtype),
    )


def make_model(config: Any, num_classes: int, **changes: Any) -> nn.Module:
    """Makes the network of a config. `changes` replaces or adds arguments of `create_model`."""
    arguments = {"norm_axis": AXIS if config["global_batch_norm"] else None, **_types(config), **parts_of(config)}
    return create_model(config["model"], num_classes, **own.accepted(config["model"], arguments | changes))


def _types(config):
    dtype = jnp.dtype(config["dtype"])
    return {"dtype": dtype, "param_dtype": jnp.promote_types(dtype, jnp.float32)}


def _check_sizes(config, dataset, image_shape, steps_per_epoch):
    height, width, channels = image_shape
    if dataset.in_memory and config.augment and config.crop_padding >= min(height, width):
        raise UserError(
            f"config.crop_padding is {config.crop_padding} and images are {height}x{width}; it must be less than "
            "their sides, or crops hold no pixel of the image"
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
    """Returns the bytes of memory of this machine, or infinity if the system does not report them, as on Windows."""
    if not hasattr(os, "sysconf"):
        return math.inf
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def parts_of(config: Any) -> dict[str, Any]:
    """Makes arguments for `create_model`: the blocks' convolution and, if the config sets one, their nonlinearity.

    Args:
      config: a config, or the `config` of a checkpoint's record.
    """
    return _parts(conv_of(config), config["nonlinearity"])


def _parts(conv, nonlinearity):
    return {"conv": conv} | ({"nonlinearity": nonlinearity} if nonlinearity else {})


def conv_of(config: Any) -> Callable[..., nn.Module]:
    """Makes the convolution of the blocks from `conv`, `alpha`, and the binarizer and ReCU fields."""
    if config["conv"] == "float":
        return layers.Conv
    of_kernels, of_inputs = binarizers_of(config)
    if config["conv"] == "binary_activations":
        # Real weights need no alpha. The second stage of two-stage training initializes its own alpha.
        return functools.partial(layers.BinaryConv, alpha="none", binary_weights=False, input_binarizer=of_inputs)
    return functools.partial(
        layers.BinaryConv, alpha=config["alpha"], kernel_binarizer=of_kernels, input_binarizer=of_inputs
    )


def binarizers_of(config: Any) -> tuple[binarizers.WeightBinarizer, binarizers.ActivationBinarizer]:
    """Makes the binarizers of kernels and of inputs from the binarizer and ReCU fields."""
    recu = {attribute: config[field] for field, attribute in RECU_FIELDS.items()}
    return (
        binarizers.weight_binarizer(config["weight_binarizer"], **recu),
        binarizers.activation_binarizer(config["activation_binarizer"]),
    )


def _is_annealed(config):
    of_kernels, of_inputs = binarizers_of(config)
    return (config.conv == "binary" and of_kernels.annealed) or (config.conv != "float" and of_inputs.annealed)


def _optimizer(config, learning_rate, model, image_shape):
    mask = functools.partial(optimizers.decay_mask, groups=config.weight_decay_on)

    def update(kind, rate, decay):
        if kind == "muon":
            return optimizers.muon(rate, config.momentum)
        # PyTorch's order: add the weight decay to the gradient, then apply the momentum, then the learning rate.
        by_gradient = optax.sgd(rate, config.momentum or None) if kind == "sgd" else optax.adam(rate)
        return optax.chain(optax.add_decayed_weights(decay, mask), by_gradient)

    rest = update(config.optimizer, learning_rate, config.weight_decay)
    given = {field: config[field] for field in LATENT_FIELDS if config[field] is not None}
    if config.optimizer != "bop" and not given:
        return rest
    found = binary_layers(model, jax.ShapeDtypeStruct((1, *image_shape), jnp.dtype(config.dtype)))
    kernels = {(*layer.path.split("/"), "kernel"): layer.kernel_binarizer for layer in found if layer.binary_weights}
    has_ovsw = "ovsw_delta" in given or "ovsw_lambda" in given
    if (has_ovsw or config.latent_optimizer == "muon") and any(layer.stacked for layer in found):
        raise UserError(
            f"config.model {config.model!r} stacks layers by nn.scan or nn.vmap, and the rules of OvSW and Muon are of "
            "one layer; leave ovsw_delta and ovsw_lambda out, and use another latent_optimizer"
        )
    if given and not kernels:
        field, value = next(iter(given.items()))
        raise UserError(
            f"config.{field} is {value}, and config.model {config.model!r} has no binary layer with latent weights; "
            "leave the field out"
        )
    if config.optimizer != "bop":
        factor = given.get("latent_learning_rate", config.learning_rate) / config.learning_rate
        latent = update(
            given.get("latent_optimizer", config.optimizer),
            lambda step: factor * learning_rate(step),
            given.get("latent_weight_decay", config.weight_decay),
        )
        if has_ovsw:
            signs = functools.partial(_signs, kernels)
            rules = optimizers.ovsw(given.get("ovsw_delta", 0), given.get("ovsw_lambda", 0), signs)
            latent = optax.chain(rules, latent)
        return optimizers.with_own(rest, latent, kernels)

    def gamma(step):
        return config.bop_gamma * learning_rate(step) / config.learning_rate

    return optimizers.with_bop(rest, kernels, config.bop_threshold, gamma)


def _signs(of_kernels, params):
    """Returns the signs of the kernels in `params`. `of_kernels` has the binarizer of each path."""

    def signs(path, kernel):
        binarizer = of_kernels[tuple(key.key for key in path)]
        return binarizer(kernel, 1.0, 1.0)[0]  # signs depend on no tau and on no progress

    return jax.tree_util.tree_map_with_path(signs, params)


def _learning_rate(config, steps_per_epoch):
    common = {"steps_per_epoch": steps_per_epoch, "warmup_epochs": config.warmup_epochs}
    if config.lr_schedule == "step":
        return schedules.step_learning_rate(config.learning_rate, config.lr_milestones, **common)
    schedule = {"cosine": schedules.cosine_learning_rate, "linear": schedules.linear_learning_rate}
    return schedule[config.lr_schedule](config.learning_rate, config.epochs, **common)
