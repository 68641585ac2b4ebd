"""Defines the fields of the config, and which of them a resumed run may change.

`recu_jax.config.rules` checks the fields. An experiment is a file with a function `get_config()`, such as the files in
`configs/`. The function starts from `base_config()` and changes fields. Fields hold only the user's choices.
`recu_jax.training.recipe` derives numbers of steps, schedules and sizes from the fields.
"""

import dataclasses
from typing import Any

import ml_collections

from recu_jax import paths
from recu_jax.binarizers import weights
from recu_jax.config import rules as rules
from recu_jax.errors import UserError, unknown

_ON_OTHER_DEVICES = ", or set --config.resume_on_other_devices=True (batch norm per device then sees other batches)"
_MORE_EPOCHS = (
    "; the schedules end with the planned epochs: to train on, start another --workdir with "
    "--config.init_from={workdir} --config.warmup_epochs=0 and a tau_min and learning_rate to go on with"
)
# Fields that determine the variables of a model.
MODEL_FIELDS = ("model", "conv", "alpha", "weight_binarizer", "activation_binarizer", "nonlinearity")
# Fields that hold a path. The fields of `RUNS` may also hold the workdir of a run, even in a bucket.
PATHS = ("data_dir", "init_from", "teacher", "compilation_cache_dir")
RUNS = ("init_from", "teacher")
# Fields that change parts of ReCU, for ablations, and the attributes of `binarizers.weights.ReCU` that they set.
RECU_FIELDS = {"standardize": "standardize", "laplace_b": "b", "center": "center", "clamp": "clamp"}
_RECU = weights.ReCU()


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of the config.

    Attributes:
      name: name of the field.
      default: value of the CIFAR-10 recipe (SPEC.md section 7). None means that `kind` gives the type.
      about: description in one line.
      kind: type of the values if `default` is None.
      free: whether a resumed run may change the field. A free field, except `resume_on_other_devices`, affects neither
        the parameters nor the order of the data.
    """

    name: str
    default: Any
    about: str
    kind: type | None = None
    free: bool = False


# The fields, under the headings that the documentation gives them.
FIELDS: dict[str, tuple[Field, ...]] = {
    "Data": (
        Field("seed", 0, "of the initialization, the order of the data and the augmentation"),
        Field("dataset", "cifar10", "name of the data set"),
        Field("data_dir", None, "folder of TFDS or of images, or file of `npz`; None is TFDS's default", str, True),
        Field("num_workers", 2, "threads, or for photographs processes, that decode images", free=True),
        Field("held_out", 0, "training images that a run tests on instead of the test set; images in memory"),
        Field("augment", True, "False treats training images as test images"),
        Field("flip", True, "mirrors half of the training images"),
        Field("mixup_alpha", 0.0, "pairs of training images are mixed by a share from Beta(alpha, alpha); 0: none"),
        Field("crop_padding", 4, "pixels added around a training image before the random crop; images in memory"),
        Field("crop_fill", "zeros", "pixels of `crop_padding`; or `reflection`, the image mirrored at its edges"),
        Field("image_size", 224, "side of a photograph, pixels"),
        Field("eval_resize", 256, "short side of a test photograph before the central crop, pixels"),
        Field("train_crop", "random_resized", "or `resize`, the whole photograph"),
        Field("crop_area", (0.08, 1.0), "share of the photograph that a random resized crop covers"),
        Field("rotation_degrees", 0.0, "photographs are rotated by up to this many degrees either way"),
        Field("on_corrupt", "error", "or `skip`: leave out photographs that cannot be decoded, and count them"),
    ),
    "Model": (
        Field("model", "cifar_resnet20", "name of the model, or `module:factory` of your own"),
        Field("conv", "binary", "or `binary_activations` (real weights, stage 1 of two), `float` (full precision)"),
        Field("init_from", None, "start from a run (its best checkpoint), a PyTorch file or a network by name", str),
        Field("fresh_head", False, "with `init_from`: the last layer starts afresh, for other classes"),
        Field("freeze", None, "names of untrained parameters or modules, by commas; `*` matches any text", str),
        Field("weight_binarizer", "recu", "how kernels are binarized: a name, or `module:name` of your own"),
        Field("activation_binarizer", "recu", "how activations are binarized: a name, or `module:name` of your own"),
        Field("nonlinearity", None, "of the blocks: `hard_tanh`, `rprelu`, `identity`; None is the model's own", str),
        Field("alpha", "learned", "scale of output channels: `learned` (authors' code), `mean` (paper), `none`"),
        Field("standardize", _RECU.standardize, "part of ReCU: whether latent weights are standardized"),
        Field("laplace_b", _RECU.b, "part of ReCU: Laplace scale b* of standardized weights"),
        Field("center", _RECU.center, "part of ReCU: whether standardizing subtracts each channel's mean"),
        Field("clamp", _RECU.clamp, "part of ReCU: whether standardized weights are clamped to Q(tau)"),
        Field("tau_schedule", "exponential", "or `linear`, `cosine`"),
        Field("tau_min", 0.85, "tau of the first epoch"),
        Field("tau_max", 0.99, "tau at the end of the last epoch; if it equals tau_min, tau is constant"),
        Field("dtype", "float32", "of the computation; parameters stay float32 (float64 with `float64`)"),
    ),
    "Optimization": (
        Field("epochs", 600, "passes over the training set"),
        Field("batch_size", 256, "images a step, over all devices"),
        Field("eval_batch_size", 256, "images a step of the evaluation, over all devices", free=True),
        Field("optimizer", "sgd", "or `adam`, `bop` (Bop flips the signs of kernels, Adam does the rest)"),
        Field("momentum", 0.9, "of `sgd` and `muon`"),
        Field("bop_threshold", 1e-8, "of `bop`: mean gradient below which no sign flips"),
        Field("bop_gamma", 1e-4, "of `bop`: weight of a new gradient in that mean; falls with the learning rate"),
        Field("weight_decay", 5e-4, "this factor times the parameter is added to the gradient"),
        Field("latent_optimizer", None, "of the latent weights: `sgd`, `adam`, `muon`; None: `optimizer`", str),
        Field("latent_learning_rate", None, "highest rate of the latent weights; None is that of all", float),
        Field("latent_weight_decay", None, "weight decay of the latent weights; None is that of all", float),
        Field("ovsw_delta", None, "OvSW: least norm of a channel's gradient, as a share of that of its weights", float),
        Field("ovsw_lambda", None, "OvSW: this factor times a weight of silent sign is added to its gradient", float),
        Field("weight_decay_on", "all", "or `conv_and_linear`: neither batch norm nor projection shortcuts"),
        Field("learning_rate", 0.1, "highest learning rate"),
        Field("lr_schedule", "cosine", "or `linear`, `step`"),
        Field("lr_milestones", (), "of `step`: epochs at which the rate is divided by 10"),
        Field("warmup_epochs", 5, "epochs in which the rate rises to the highest"),
        Field("gradient_accumulation_steps", 1, "parts of a batch, computed one after the other, for less memory"),
        Field("ema_decay", 0.0, "of the exponential average of the weights, which is evaluated and exported; 0: none"),
        Field("label_smoothing", 0.0, "share of each label that is spread evenly over all classes; not with `teacher`"),
        Field("teacher", None, "workdir or PyTorch file whose predictions replace the labels", str),
        Field("teacher_model", "resnet34", "name of the teacher's model"),
        Field("teacher_features", 0.0, "first weight of the distance between the blocks and the teacher's"),
        Field("teacher_nonlinearity", None, "of the teacher's blocks, as `nonlinearity`; None is its model's own", str),
    ),
    "Devices": (
        Field("num_devices", None, "None: all of them", int),
        Field("global_batch_norm", False, "batch statistics over all devices; the authors' are per device"),
        Field("steps_per_dispatch", None, "steps a call to the devices; None: one on CPUs, many elsewhere", int, True),
        Field("compilation_cache_dir", None, "folder of compiled programs, for a quicker start", str, True),
        Field("resume_on_other_devices", False, "continues with another number of devices than before", free=True),
    ),
    "Failures": (
        Field("check_finite_every_steps", 20, "steps between checks; the run ends if a loss is not finite", free=True),
        Field("data_timeout_seconds", 300, "after this many seconds without a batch the run ends", free=True),
    ),
    "Records": (
        Field("checkpoint_every_epochs", 1, "epochs between checkpoints", free=True),
        Field("log_every_steps", 20, "steps between lines of numbers; slow steps show them more often", free=True),
        Field("tensorboard", True, "writes TensorBoard events", free=True),
        Field("tracker", None, "`wandb`, `trackio`, or `module:name` of your own: gets all numbers", str, True),
        Field("tracker_project", "recu_jax", "project of the tracker's run", free=True),
        Field("diagnostics", True, "measures the binary layers after each epoch; writes diagnostics.jsonl", free=True),
        Field("report", True, "rewrites report.html after each epoch; needs plotly", free=True),
    ),
}  # fmt: skip
# Fields that a resumed run may change.
FREE_ON_RESUME = frozenset(field.name for fields in FIELDS.values() for field in fields if field.free)


def base_config() -> ml_collections.ConfigDict:
    """Returns the CIFAR-10 recipe of SPEC.md section 7. The config is locked: unknown fields raise an error."""
    config = ml_collections.ConfigDict()
    for fields in FIELDS.values():
        for field in fields:
            placeholder = ml_collections.config_dict.placeholder
            config[field.name] = field.default if field.kind is None else placeholder(field.kind)
    return config.lock()


def field_lines() -> list[str]:
    """Returns a line for each field: name, default and description."""
    return [f"{f.name}={f.default}: {f.about}" for fields in FIELDS.values() for f in fields]


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for the first invalid field. Checks no rule that depends on the hardware or the data set."""
    base = base_config()
    fields = set(base)
    for field in sorted(set(config) - fields):
        raise unknown("config field", field, base)
    for field in sorted(fields - set(config)):
        raise UserError(f"config.{field} is missing; start from recu_jax.config.base_config()")
    rules.check_kinds(config, base)
    rules.check_values(config)
    rules.check_own_model(config, base)


def with_local_paths(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns a copy of the config in which `~` at the start of each path is replaced by the home folder.

    A field of `RUNS` may also hold the address of a run in a bucket. A `/` at the end of this address is removed.

    Raises:
      UserError: a field holds any other address; or a path begins with `~USER`, and that user has no home folder.
    """
    config = config.copy_and_resolve_references()
    for field in PATHS:
        if config[field] is not None:
            as_typed = paths.of_run if field in RUNS else paths.local
            config[field] = as_typed(config[field], f"config.{field}")
    return config


def check_resumable(saved: dict[str, Any], config: ml_collections.ConfigDict, workdir: str) -> None:
    """Raises UserError if `config` differs from `saved` in a field that a resumed run must not change.

    A field that `saved` lacks is newer than the run. It must have its default.

    `num_devices` in both configs is the actual number of devices. It must stay the same if batch norm is per device,
    unless `config.resume_on_other_devices` is True.

    Args:
      saved: config of the checkpoint.
      config: config of the resumed run.
      workdir: workdir of the run, for the message.
    """
    any_devices = config.global_batch_norm or config.resume_on_other_devices
    free = FREE_ON_RESUME | ({"num_devices"} if any_devices else set())
    was, now = plain(base_config()) | saved, plain(config)
    changed = {k for k in was.keys() | now.keys() if was.get(k) != now.get(k)} - free
    if changed:
        what = ", ".join(f"{k} was {was.get(k)!r} and is {now.get(k)!r}" for k in sorted(changed))
        raise UserError(
            f"{workdir} holds a run of another config: {what}; give these fields their old values or another --workdir"
            + (_ON_OTHER_DEVICES if changed == {"num_devices"} else "")
            + (_MORE_EPOCHS.format(workdir=workdir) if "epochs" in changed else "")
        )


def check_trained_here(record: dict[str, Any], workdir: str) -> None:
    """Raises UserError if the checkpoints in `workdir` were imported. They are not a run that can continue."""
    if "imported" in record:
        raise UserError(
            f"{workdir} holds weights imported from {record['imported']['file']}, not a run; train in another "
            f"--workdir with --config.init_from={workdir}"
        )


def check_same_model(saved: dict[str, Any], config: ml_collections.ConfigDict, workdir: str) -> None:
    """Raises UserError if the checkpoints in `workdir` hold another model than the config's."""
    for field in MODEL_FIELDS:
        # The config of imported weights lacks some of these fields.
        if field in saved and saved[field] != config[field]:
            raise UserError(
                f"{workdir} holds a run with {field}={saved[field]!r}, the config says {config[field]!r}; evaluate "
                "with the config that it was trained with"
            )


def plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Converts the config to the form that JSON keeps: tuples become lists."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in config.to_dict().items()}
