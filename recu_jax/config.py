"""The fields of a run, and which of them a resumed run may change; their rules are in `recu_jax.config_rules`.

An experiment is a file with a `get_config()` that starts from `base_config()` and changes fields; see `configs/`.
Fields hold choices alone: steps, schedules and sizes are derived in `recu_jax.recipe`.
"""

from typing import Any

import ml_collections

from recu_jax import config_rules
from recu_jax.errors import UserError, unknown

# Fields that a resumed run may change: they change neither parameters nor the data's order.
FREE_ON_RESUME = frozenset({
    "data_dir", "num_workers", "eval_batch_size", "steps_per_dispatch", "checkpoint_every_epochs", "log_every_steps",
    "tensorboard", "diagnostics", "report", "check_finite_every_steps", "data_timeout_seconds",
    "resume_on_other_devices", "compilation_cache_dir",
})  # fmt: skip
_ON_OTHER_DEVICES = ", or set --config.resume_on_other_devices=True (batch norm per device then sees other batches)"
# Fields that decide which variables a model has.
MODEL_FIELDS = ("model", "dataset", "conv", "scale", "weight_binarizer", "activation_binarizer", "nonlinearity")


def base_config() -> ml_collections.ConfigDict:
    """The CIFAR-10 recipe of SPEC.md section 7, locked: a field that is not here is refused."""
    c = ml_collections.ConfigDict()
    c.seed = 0

    # Data. `data_dir`: TFDS's folder, or the file of data set npz; None is TFDS's default.
    c.dataset = "cifar10"
    c.data_dir = ml_collections.config_dict.placeholder(str)
    c.num_workers = 2  # threads, or for photographs processes, that decode images
    c.augment = True  # False: training images are treated as test images are
    c.flip = True
    # Images that live on the device.
    c.crop_padding = 4  # pixels of zeros around a training image before the random crop; 0 crops nothing
    # Photographs, which stream from the disk.
    c.image_size = 224  # pixels a side
    c.eval_resize = 256  # short side of a test image before the central crop, pixels
    c.train_crop = "random_resized"  # or "resize": the whole image
    c.crop_area = (0.08, 1.0)  # share of the image that a random resized crop covers
    c.rotation_degrees = 0.0  # uniform on +- this many
    c.on_corrupt = "error"  # or "skip": go on without, and count them

    # Model. `conv`: binary, binary_activations (real weights: stage 1 of two), float (the full-precision twin). The
    # other fields are the parts of ReCU, for ablations.
    c.model = "cifar_resnet20"
    c.conv = "binary"
    # Variables to start from: a run's workdir (its best checkpoint) or a PyTorch file. A full-precision run for
    # "finetune", stage 1 for stage 2.
    c.init_from = ml_collections.config_dict.placeholder(str)
    # How signs come about (`recu_jax.binarizers`), and what stands between 1-bit convolutions: hard_tanh, rprelu; None
    # is what the paper's model has.
    c.weight_binarizer = "recu"
    c.activation_binarizer = "recu"
    c.nonlinearity = ml_collections.config_dict.placeholder(str)
    # alpha: learned (the authors' code), mean (the paper), none. What a weight_binarizer has of its own stays.
    c.scale = "learned"
    c.standardize = True
    c.laplace_b = 2.0  # b*, the Laplace scale that standardised weights have
    c.centre = True  # whether the standardisation subtracts the mean of each channel
    c.clamp = True
    c.tau_schedule = "exponential"  # or linear, cosine; tau_min == tau_max is a fixed tau
    c.tau_min, c.tau_max = 0.85, 0.99
    c.dtype = "float32"  # of the computation; parameters stay float32 (float64 with float64)

    # Optimisation.
    c.epochs = 600
    c.batch_size = 256  # over all devices
    c.eval_batch_size = 256
    c.optimizer = "sgd"  # or "adam", or "bop": signs of kernels flip by Bop, Adam for the rest
    c.momentum = 0.9
    c.bop_threshold = 1e-8  # of the mean gradient, below which no sign flips
    c.bop_gamma = 1e-4  # adaptivity: the share of a new gradient in that mean; falls as the learning rate does
    c.weight_decay = 5e-4
    c.weight_decay_on = "all"  # or "conv_and_linear": neither batch norm nor projection shortcuts
    c.learning_rate = 0.1
    c.lr_schedule = "cosine"
    c.lr_milestones = ()  # epochs at which the step schedule divides the rate by 10
    c.warmup_epochs = 5
    # Distillation: a full-precision network (workdir or PyTorch file, and its model) whose labels replace the data's.
    c.teacher = ml_collections.config_dict.placeholder(str)
    c.teacher_model = "resnet34"

    # Devices. None: all of them; many steps a dispatch on GPU and TPU.
    c.num_devices = ml_collections.config_dict.placeholder(int)
    c.global_batch_norm = False  # batch statistics over all devices; each its own is what the authors do
    c.steps_per_dispatch = ml_collections.config_dict.placeholder(int)
    # Folder where compiled programs are kept, so that later runs start sooner; it grows, and may be deleted.
    c.compilation_cache_dir = ml_collections.config_dict.placeholder(str)
    # Go on with another number of devices than before, though batch norm per device makes it another run.
    c.resume_on_other_devices = False

    # When to give up. A loss that is not finite is noticed this many steps later at most (or a dispatch later), an
    # input worker that hangs after so many seconds without a batch.
    c.check_finite_every_steps = 20
    c.data_timeout_seconds = 300

    # What is kept and shown.
    c.checkpoint_every_epochs = 1
    c.log_every_steps = 20
    c.tensorboard = True
    c.diagnostics = True  # of the binary layers, per epoch: diagnostics.jsonl
    c.report = True  # report.html, rewritten as it trains; needs plotly
    return c.lock()


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for the first field that breaks its rule, whatever the hardware."""
    base = base_config()
    fields = set(base)
    for field in sorted(set(config) - fields):
        raise unknown("config field", field, base)
    for field in sorted(fields - set(config)):
        raise UserError(f"config.{field} is missing; start from recu_jax.config.base_config()")
    config_rules.check_kinds(config, base)
    config_rules.check_values(config)


def check_resumable(saved: dict[str, Any], config: ml_collections.ConfigDict, workdir: str) -> None:
    """Raises UserError if `config` differs from the `saved` one where a resumed run must not.

    Both have the number of devices that there are: per-device batch norm makes it a part of the method.
    """
    # A field that is younger than the run: its default is what was done before there was a choice.
    saved = plain(base_config()) | saved
    any_devices = config.global_batch_norm or config.resume_on_other_devices
    free = FREE_ON_RESUME | ({"num_devices"} if any_devices else set())
    changed = {k for k in saved.keys() | config.keys() if saved.get(k) != plain(config).get(k)} - free
    if changed:
        what = ", ".join(f"{k} was {saved.get(k)!r} and is {plain(config).get(k)!r}" for k in sorted(changed))
        raise UserError(
            f"{workdir} holds a run of another config: {what}; give these fields their old values or another --workdir"
            + (_ON_OTHER_DEVICES if changed == {"num_devices"} else "")
        )


def check_trained_here(record: dict[str, Any], workdir: str) -> None:
    """Raises UserError if the checkpoints in `workdir` were imported, so that there is no run to continue."""
    if "imported" in record:
        raise UserError(
            f"{workdir} holds weights imported from {record['imported']['file']}, not a run; train in another "
            f"--workdir with --config.init_from={workdir}"
        )


def check_same_model(saved: dict[str, Any], config: ml_collections.ConfigDict, workdir: str) -> None:
    """Raises UserError if the checkpoints in `workdir` are of another model than the config's."""
    # Younger than some runs, which had what is their default.
    base = base_config()
    saved = {field: base[field] for field in ("weight_binarizer", "activation_binarizer", "nonlinearity")} | saved
    for field in MODEL_FIELDS:
        # Imported weights are of no data set.
        if field in saved and saved[field] != config[field]:
            raise UserError(
                f"{workdir} holds a run with {field}={saved[field]!r}, the config says {config[field]!r}; evaluate "
                "with the config that it was trained with"
            )


def plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config as JSON keeps it: tuples are lists."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in config.to_dict().items()}
