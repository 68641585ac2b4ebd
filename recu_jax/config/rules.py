"""Checks the rules of the config that depend neither on the hardware nor on the data set."""

import itertools
import math
import numbers
from typing import Any

import ml_collections

from recu_jax import binarizers, data, layers, models
from recu_jax.data.augment import CROP_FILLS
from recu_jax.data.stream import ON_CORRUPT
from recu_jax.data.transform import CROPS
from recu_jax.errors import UserError, unknown
from recu_jax.functional import check_tau_range
from recu_jax.models.parts import NONLINEARITIES
from recu_jax.optimizers import DECAY_GROUPS
from recu_jax.references import is_reference

CHOICES = {
    "dataset": data.NAMES,
    "optimizer": ("sgd", "adam", "bop"),
    "latent_optimizer": (None, "sgd", "adam", "muon"),
    "lr_schedule": ("cosine", "step", "linear"),
    "dtype": ("float32", "bfloat16", "float64"),
    "conv": ("binary", "binary_activations", "float"),
    "crop_fill": CROP_FILLS,
    "train_crop": CROPS,
    "on_corrupt": ON_CORRUPT,
    "weight_decay_on": DECAY_GROUPS,
    "alpha": layers.ALPHAS,
    # These are the dicts themselves, not copies, so a config file can add binarizers to them.
    "weight_binarizer": binarizers.WEIGHTS,
    "activation_binarizer": binarizers.ACTIVATIONS,
    "nonlinearity": (None, *NONLINEARITIES),
    "tau_schedule": ("exponential", "linear", "cosine"),
    "tracker": (None, "wandb", "trackio"),
    "model": models.MODELS,
    "teacher_model": models.MODELS,
    "teacher_nonlinearity": (None, *NONLINEARITIES),
}
# Fields that apply only to the latent weights.
LATENT_FIELDS = ("latent_optimizer", "latent_learning_rate", "latent_weight_decay", "ovsw_delta", "ovsw_lambda")
# Fields that also take an object of the user's own, as `module:name`.
OWN = ("model", "weight_binarizer", "activation_binarizer", "tracker")
# Arguments of a model's factory, and the config fields that have an effect only if the factory takes the argument.
_BY_ARGUMENT = {
    "conv": (
        "conv", "alpha", "weight_binarizer", "activation_binarizer", "standardize", "laplace_b", "center", "clamp",
    ),
    "norm_axis": ("global_batch_norm",),
    "nonlinearity": ("nonlinearity",),
    "dtype": ("dtype",),
}  # fmt: skip
# Smallest and largest value; None is no limit. Limits that depend on memory or on the data set are checked elsewhere.
RANGES = {
    # JAX keeps 32 bits of a seed. With more bits two seeds would give the same initial parameters.
    "seed": (0, 2**32 - 1),
    "num_workers": (0, 1024),
    "held_out": (0, None),
    "crop_padding": (0, None),
    "image_size": (1, 8192),
    "eval_resize": (1, 8192),
    "rotation_degrees": (0, 180),
    "epochs": (1, None),
    "batch_size": (1, None),
    "eval_batch_size": (1, None),
    "gradient_accumulation_steps": (1, None),
    "mixup_alpha": (0, None),
    "teacher_features": (0, None),
    "bop_threshold": (0, None),
    "bop_gamma": (0, 1),
    "weight_decay": (0, None),
    "latent_weight_decay": (0, None),
    "ovsw_delta": (0, None),
    "ovsw_lambda": (0, None),
    "warmup_epochs": (0, None),
    "num_devices": (1, None),
    "steps_per_dispatch": (1, None),
    "checkpoint_every_epochs": (1, None),
    "log_every_steps": (1, None),
    "check_finite_every_steps": (1, None),
    "data_timeout_seconds": (1, None),
}
_KINDS = {
    bool: ("True or False", lambda v: isinstance(v, bool)),
    int: ("a whole number", lambda v: isinstance(v, numbers.Integral) and not isinstance(v, bool)),
    float: ("a finite number", lambda v: _is_number(v)),
    str: ("a text that is not empty", lambda v: isinstance(v, str) and v.strip() != ""),
    tuple: ("a tuple", lambda v: isinstance(v, tuple | list)),
}


def check_kinds(config: ml_collections.ConfigDict, base: ml_collections.ConfigDict) -> None:
    """Raises UserError for the first field whose type differs from its type in `base`.

    A field that is None in `base` may be None. Numbers must be finite. Texts, including paths, must not be empty.
    """
    for field in sorted(base):
        if config[field] is None and base[field] is None:
            continue
        what, is_kind = _KINDS[base.get_type(field)]
        if not is_kind(config[field]):
            raise UserError(f"config.{field} is {_shown(config[field])}; it must be {what}")


def check_values(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for the first field with an invalid value, or the first fields that exclude each other."""
    for field, names in CHOICES.items():
        own = field in OWN and is_reference(config[field])
        if config[field] not in names and not own:
            also = ", or 'module:name' of your own" if field in OWN else ""
            raise unknown(f"config.{field}", config[field], map(str, names), also)
    if config.model in models.FULL_PRECISION and config.conv != "float":
        raise UserError(
            f"config.model is {config.model!r} and config.conv is {config.conv!r}; this model is full precision only: "
            "use --config.conv=float"
        )
    for field, (least, most) in RANGES.items():
        value = config[field]
        if value is not None and value < least:
            raise UserError(f"config.{field} is {value}; it must be at least {least}")
        if value is not None and most is not None and value > most:
            raise UserError(f"config.{field} is {value}; it must be at most {most}")
    check_tau_range(config.tau_min, config.tau_max, prefix="config.")
    for field in ("learning_rate", "latent_learning_rate", "laplace_b"):
        if config[field] is not None and not config[field] > 0:
            raise UserError(f"config.{field} is {config[field]}; it must be above 0")
    for field in ("momentum", "ema_decay", "label_smoothing"):
        if not 0 <= config[field] < 1:
            raise UserError(f"config.{field} is {config[field]}; it must be at least 0 and below 1")
    _check_binarizers(config)
    _check_teacher(config)
    _check_nonlinearities(config)
    _check_photos(config)
    _check_milestones(config)
    _check_start(config)
    _check_labels(config)


def check_own_model(config: ml_collections.ConfigDict, base: ml_collections.ConfigDict) -> None:
    """Checks that a model of the user's own takes the arguments that the config sets.

    Raises:
      UserError: the model does not take `num_classes`, or takes no argument for a field that differs from `base`.
    """
    if not is_reference(config.model):
        return
    arguments = {**dict.fromkeys(_BY_ARGUMENT), "num_classes": None}
    taken = models.own.accepted(config.model, arguments)
    if "num_classes" not in taken:
        raise UserError(
            f"config.model is {config.model!r}; it must be a Flax module, or a function, that takes num_classes="
        )
    for argument, fields in _BY_ARGUMENT.items():
        changed = [field for field in fields if argument not in taken and config[field] != base[field]]
        if changed:
            raise UserError(
                f"config.{changed[0]} is {config[changed[0]]!r}, and config.model {config.model!r} takes no argument "
                f"{argument}=; let it take {argument}=, or leave the field out"
            )


def _check_binarizers(config):
    name = config.weight_binarizer
    binarizer = binarizers.weight_binarizer(name)
    binarizers.activation_binarizer(config.activation_binarizer)
    if name != "recu":
        if config.alpha == "mean" and not isinstance(binarizer, binarizers.weights.ReCU):
            raise UserError(
                f"config.alpha is 'mean', which is ReCU's, and config.weight_binarizer is {name!r}; use "
                "--config.alpha=learned or none"
            )
        for field in ("standardize", "clamp"):
            if not config[field]:
                raise UserError(
                    f"config.{field} is False, a part of ReCU left out, and config.weight_binarizer is {name!r}; use "
                    f"--config.{field}=True"
                )
    latent = [field for field in LATENT_FIELDS if config[field] is not None]
    if latent and config.conv != "binary":
        raise UserError(
            f"config.{latent[0]} is {config[latent[0]]} and config.conv is {config.conv!r}, which has no latent "
            "weights: leave the field out, or use --config.conv=binary"
        )
    if config.latent_optimizer == "muon":
        if config.latent_learning_rate is None:
            raise UserError(
                "config.latent_optimizer is 'muon', whose rate is an angle and not that of the other parameters; give "
                "--config.latent_learning_rate, such as 0.01"
            )
        if config.latent_weight_decay is not None:
            raise UserError(
                f"config.latent_weight_decay is {config.latent_weight_decay} and config.latent_optimizer is 'muon', "
                "which keeps the norm of the latent weights; leave the decay out"
            )
    if config.optimizer != "bop":
        return
    if latent:
        raise UserError(
            f"config.{latent[0]} is {config[latent[0]]} and config.optimizer is 'bop', which has no latent weights: "
            "leave one of the two out"
        )
    if config.conv != "binary":
        raise UserError(
            f"config.optimizer is 'bop' and config.conv is {config.conv!r}, which has no 1-bit weights; use "
            "--config.conv=binary, or --config.optimizer=adam"
        )
    if not binarizer.keeps_signs:
        able = ", ".join(k for k, kind in binarizers.WEIGHTS.items() if kind.keeps_signs)
        raise UserError(
            f"config.optimizer is 'bop' and config.weight_binarizer is {name!r}, which centers the weights, so that "
            f"their signs are not those that Bop flips; use one of: {able}"
        )


def _check_teacher(config):
    for field in ("teacher_nonlinearity", "teacher_features"):
        if config[field] and config.teacher is None:
            raise UserError(
                f"config.{field} is {config[field]!r} and config.teacher is not set; give --config.teacher=WORKDIR, or "
                "leave the field out"
            )


def _check_nonlinearities(config):
    for prefix in ("", "teacher_"):
        kind, model = config[f"{prefix}nonlinearity"], config[f"{prefix}model"]
        if kind and model in models.OWN_NONLINEARITY:
            raise UserError(
                f"config.{prefix}nonlinearity is {kind!r} and config.{prefix}model is {model!r}, which has its own; "
                "leave the field out"
            )


def _check_photos(config):
    if config.dataset in data.photos.NAMES and config.eval_resize < config.image_size:
        raise UserError(
            f"config.eval_resize is {config.eval_resize} and config.image_size {config.image_size}; a test image is "
            "resized first and cropped then, so eval_resize must be at least image_size"
        )
    area = tuple(config.crop_area)
    if len(area) != 2 or not all(map(_is_number, area)) or not 0 < area[0] <= area[1] <= 1:
        raise UserError(
            f"config.crop_area is {_shown(area)}; it must be two shares, 0 < least <= most <= 1, as in "
            "--config.crop_area='(0.25,1.0)'"
        )


def _check_milestones(config):
    epochs = tuple(config.lr_milestones)
    whole = all(_KINDS[int][1](e) for e in epochs)
    if not whole or any(e < 1 for e in epochs) or any(a >= b for a, b in itertools.pairwise(epochs)):
        raise UserError(
            f"config.lr_milestones is {_shown(epochs)}; it must be epochs from 1 on in rising order, as in "
            "--config.lr_milestones='(100,150)'"
        )
    if config.lr_schedule == "step" and not epochs:
        raise UserError(
            "config.lr_milestones is empty; the step schedule needs epochs, as in --config.lr_milestones='(100,150)'"
        )


def _check_start(config):
    if config.fresh_head and config.init_from is None:
        raise UserError(
            "config.fresh_head is True and config.init_from is not set; without it every layer starts afresh: give "
            "--config.init_from=WORKDIR, or leave the field out"
        )


def _check_labels(config):
    if config.label_smoothing and config.teacher is not None:
        raise UserError(
            f"config.label_smoothing is {config.label_smoothing} and config.teacher is set, whose predictions replace "
            "the labels; leave one of the two out"
        )
    if config.mixup_alpha and not config.augment:
        raise UserError(
            f"config.mixup_alpha is {config.mixup_alpha} and config.augment is False, which leaves training images as "
            "they are; leave one of the two out"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: Any) -> str:
    """Formats a value on one line. A text of more than 100 characters is cut there and ends with "..."."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:100]}..."
