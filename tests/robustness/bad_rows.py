"""Collects all rows of `bad_input`, and defines those of the command line, of config files and of fields."""

from tests.robustness import bad_rows_data as data
from tests.robustness import bad_rows_runs as runs
from tests.robustness.bad_input import Row, config_file, field, the_command
from tests.support import ROOT
from tests.support import bad_files as bad

IMAGENET = "configs/imagenet.py"

COMMAND = [
    the_command("no --config", "--config is not set; give an experiment", config=None),
    the_command("--config of no file", "--config=configs/digit.py does not exist or is not readable; give the path of "
        "a file with get_config(), or one of: cifar10, ", config="configs/digit.py"),
    the_command("a folder that is not that of the shipped configs", "--config=elsewhere/digits.py does not exist",
        config="elsewhere/digits.py"),
    Row("a model for a summary that does not exist", "config.model is 'resnet19', which does not exist; did you mean",
        lambda d: ["--config=digits", "--config.model=resnet19"], "summary"),
    Row("a command that does not exist", "command is 'trian', which does not exist; did you mean 'train'?",
        lambda d: [], "trian"),
    Row("a mode for a command that has one", "--mode is not an argument of `recu train`, which sets the mode itself",
        lambda d: ["--config=digits", "--mode=eval", f"--workdir={d / 'run'}"], "train"),
    the_command("a part that the config has not",
        "it must be one of: stage1, stage2", config="configs/imagenet_two_stage.py:stage3"),
    the_command("a part of a config without parts",
        "get_config() takes 0 positional arguments", config="configs/digits.py:x"),
    the_command("a field that is not there",
        "--config field is 'epoch', which does not exist; did you mean 'epochs'?", "--config.epoch=3"),
    the_command("an abbreviation of a field", "did you mean 'learning_rate'?", "--config.lr=0.1"),
    the_command("a field without --config", "it is a field of the config: --config.epochs=VALUE", "--epochs=3"),
    the_command("an unknown flag", "wrkdir", "--wrkdir=x"),
    the_command("an argument that is no flag", "'extra' is not a flag", "extra"),
    the_command("an unknown mode", "--mode=test: value should be one of <train|eval>", "--mode=test"),
    the_command("words for a number", "--config.epochs=many: invalid literal", "--config.epochs=many"),
    the_command("nothing for a number", "--config.epochs=: invalid literal", "--config.epochs="),
    the_command("a word for yes or no", "Non-boolean argument", "--config.flip=maybe"),
    the_command("a tuple that is not closed", "lr_milestones=(3,1: Error while parsing", "--config.lr_milestones=(3,1"),
    Row("a workdir that is a file", "DIR/notes.txt cannot be made or written to: File exists; give another --workdir",
        lambda d: ["--config=configs/digits.py", f"--workdir={bad.text(d)}"]),
    Row("a workdir below a file", "cannot be made or written to: Not a directory",
        lambda d: ["--config=configs/digits.py", f"--workdir={bad.text(d)}/run"]),
    Row("a workdir on another machine", "--workdir is 'hdfs://host/run', and it must be on this machine; copy or mount "
        "it, and give the folder's path", lambda d: ["--config=configs/digits.py", "--workdir=hdfs://host/run"]),
    Row("a bucket as workdir", "--workdir is 'gs://bucket', which names no folder in a bucket; give one, such as "
        "s3://BUCKET/run", lambda d: ["--config=configs/digits.py", "--workdir=gs://bucket"]),
    Row("a bucket with one slash, as pathlib writes it", "--workdir is 'gs:/b/run', which names no folder in a bucket; "
        "give one, such as s3://BUCKET/run", lambda d: ["--config=configs/digits.py", "--workdir=gs:/b/run"]),
    Row("a workdir of a user who is not there", "--workdir is '~nobody_here/run', and ~nobody_here has no home folder",
        lambda d: ["--config=configs/digits.py", "--workdir=~nobody_here/run"]),
    Row("a file to predict with on s3://", "it must be on this machine; mount the bucket (mount-s3 BUCKET DIR)",
        lambda d: ["s3://bucket/x.recu", "x.png"], "predict"),
    Row("a batch that does not divide over the devices",
        "config.batch_size is 66, which does not divide over 4 devices; use a multiple of 4, or set config.num_devices",
        lambda d: ["--config=configs/digits.py", "--config.batch_size=66", f"--workdir={d / 'run'}"],
        environment=(("XLA_FLAGS", "--xla_force_host_platform_device_count=4"),)),
    the_command("several processes and no address",
        "the processes of this run do not find each other", "--distributed"),
    Row("a number of processes that is none", "JAX_NUM_PROCESSES is 'two'; it must be a whole number",
        lambda d: ["--config=configs/digits.py", f"--workdir={d / 'run'}"],
        environment=(("JAX_COORDINATOR_ADDRESS", "localhost:1"), ("JAX_NUM_PROCESSES", "two"))),
]  # fmt: skip

CONFIG_FILES = [
    config_file("a config without get_config", "get_config", lambda d: ROOT / "tests" / "support" / "golden_values.py"),
    config_file("a config that is no Python", "config.py: SyntaxError", lambda d: bad.config(d, ["return ("])),
    config_file("a config that raises", "config.py: RuntimeError: two lines",
                lambda d: bad.config(d, [r"raise RuntimeError('two\nlines')"])),
    config_file("a config that ends the program", "config.py: SystemExit", lambda d: bad.config(d, ["exit(1)"])),
    config_file("a config with an import that is not there", "No module named 'no_such_module'",
                lambda d: bad.config(d, ["return None"], "import no_such_module")),
    config_file("a config that is a dict", "returns a dict; it must return recu_jax.config.base_config()",
                lambda d: bad.config(d, ["return {'epochs': 3}"])),
    config_file("a config that returns nothing", "returns nothing", lambda d: bad.config(d, ["base_config()"])),
    config_file("a config with a misspelt field", "config field is 'epoch', which does not exist; did you mean",
                lambda d: bad.config(d, ["c = base_config()", "c.epoch = 3", "return c"])),
    config_file("a config with a text for a number", "epochs",
                lambda d: bad.config(d, ["c = base_config()", "c.epochs = 'three'", "return c"])),
    config_file("a config with True for a number", "config.epochs is True; it must be a whole number",
                lambda d: bad.config(d, ["c = base_config()", "c.epochs = True", "return c"])),
    config_file("a config with None for a number", "config.epochs is None; it must be a whole number",
                lambda d: bad.config(d, ["c = base_config()", "c.epochs = None", "return c"])),
    config_file("a config that lacks fields",
                "config.activation_binarizer is missing; start from recu_jax.config.base_config()",
                lambda d: bad.config(d, ["return ConfigDict({'epochs': 3})"], "from ml_collections import ConfigDict")),
]  # fmt: skip

FIELDS = [
    field("tau_min", 0.4, "config.tau_min is 0.4"),
    field("tau_schedule", "exponent", "'exponent', which does not exist; did you mean 'exponential'?"),
    field("laplace_b", 0.0, "config.laplace_b is 0.0; it must be above 0"),
    field("tau_min", 0.95, "0.5 < tau_min <= tau_max <= 1", tau_max=0.9),
    field("weight_binarizer", "xnor", "is 'xnor', which does not exist; did you mean 'xnor_net'?"),
    field("weight_binarizer", "irnet", "did you mean 'libra'? it must be one of: recu, clipped_sign"),
    field("weight_binarizer", "nowhere:Mine", "and there is no module 'nowhere'; it must be in"),
    field("activation_binarizer", "recu_jax.errors:UserEror", "did you mean 'UserError'?"),
    field("model", "recu_jax.errors:UserError", "it must be a Flax module, or a function, that takes num_classes="),
    field("model", "resnet20", "did you mean 'cifar_resnet20'?"),
    field("optimizer", "bop", "which centers the weights, so that their signs are not those that Bop flips"),
    field("model", "cifar_resnet19", "did you mean 'cifar_resnet1"),
    field("model", "resnet18", "this model is full precision only: use --config.conv=float"),
    field("dataset", "cifar-10", "config.dataset is 'cifar-10', which does not exist; did you mean 'cifar10'"),
    field("optimizer", "adamw", "did you mean 'adam'? it must be one of: sgd, adam"),
    field("dtype", "float16", "did you mean 'bfloat16'?"),
    field("batch_size", 0, "config.batch_size is 0; it must be at least 1"),
    field("batch_size", 5000, "digits has only 1437 training images"),
    field("eval_batch_size", 10**12, "GiB of 8x8 images, and this machine has"),
    field("num_devices", 7, "config.num_devices is 7"),
    field("epochs", 0, "config.epochs is 0; it must be at least 1"),
    field("epochs", 10**15, "a run holds at most 2147483647 steps, 48806446 epochs"),
    field("num_workers", 10**6, "config.num_workers is 1000000; it must be at most 1024"),
    field("data_dir", "gs://bucket/data", "config.data_dir is 'gs://bucket/data', and it must be", dataset="npz"),
    field("seed", 2**32, "config.seed is 4294967296; it must be at most 4294967295"),
    field("fresh_head", True, "config.fresh_head is True and config.init_from is not set"),
    field("freeze", "conv1,layer9*", "config.freeze is 'layer9*', which does not exist; "),
    field("freeze", "linear,*", "config.freeze is 'linear,*', which names all parameters; leave some to train"),
    field("learning_rate", 0.0, "config.learning_rate is 0.0; it must be above 0"),
    field("learning_rate", "inf", "config.learning_rate is inf; it must be a finite number"),
    field("momentum", 1.0, "config.momentum is 1.0; it must be at least 0 and below 1"),
    field("ema_decay", 1.0, "config.ema_decay is 1.0; it must be at least 0 and below 1"),
    field("gradient_accumulation_steps", 0, "config.gradient_accumulation_steps is 0; it must be at least 1"),
    field(
        "gradient_accumulation_steps",
        5,
        "config.batch_size is 32, which does not divide over 1 device and 5 "
        "gradient_accumulation_steps; use a multiple of 5",
    ),
    field("mixup_alpha", -0.2, "config.mixup_alpha is -0.2; it must be at least 0"),
    field(
        "mixup_alpha",
        0.2,
        "config.mixup_alpha is 0.2, which mixes pairs of images, and a device gets 33 at a time; "
        "let config.batch_size be a multiple of 2",
        batch_size=33,
    ),
    field(
        "mixup_alpha",
        0.4,
        "config.mixup_alpha is 0.4 and config.augment is False, which leaves training images as "
        "they are; leave one of the two out",
        augment=False,
    ),
    field(
        "tracker", "wandbb", "config.tracker is 'wandbb', which does not exist; did you mean 'wandb'? it must be one of"
    ),
    field("tracker", "recu_jax.errors:Nothing", "config.tracker is 'recu_jax.errors:Nothing', and the name in"),
    field("tracker_project", "", "config.tracker_project is ''; it must be a text that is not empty"),
    field("label_smoothing", 1.0, "config.label_smoothing is 1.0; it must be at least 0 and below 1"),
    field(
        "label_smoothing",
        0.1,
        "config.label_smoothing is 0.1 and config.teacher is set, whose predictions replace "
        "the labels; leave one of the two out",
        teacher="runs/teacher",
    ),
    field(
        "teacher_nonlinearity",
        "rprelu",
        "config.teacher_nonlinearity is 'rprelu' and config.teacher is not set; give --config.teacher=WORKDIR, or",
    ),
    field(
        "teacher_features",
        4.0,
        "config.teacher_features is 4.0 and config.teacher is not set; give --config.teacher=WORKDIR, or",
    ),
    field("teacher_features", -1.0, "config.teacher_features is -1.0; it must be at least 0"),
    field(
        "teacher_nonlinearity",
        "rprelu",
        "config.teacher_nonlinearity is 'rprelu' and config.teacher_model is 'resnet34', which has its own; leave",
        teacher="resnet34.pth",
    ),
    field("weight_decay", "nan", "config.weight_decay is nan; it must be a finite number"),
    field("lr_schedule", "step", "config.lr_milestones is empty; the step schedule needs epochs"),
    field("lr_milestones", "(20,10)", "config.lr_milestones is (20, 10); it must be epochs from 1 on in rising order"),
    field("lr_milestones", "('ten',)", "config.lr_milestones is ('ten',); it must be epochs"),
    field("crop_padding", 8, "config.crop_padding is 8 and images are 8x8; it must be less than their sides"),
    field("crop_area", "0.5", "config.crop_area is (0.5,)", IMAGENET),
    field("crop_area", "('a','b')", "config.crop_area is ('a', 'b'); it must be two shares", IMAGENET),
    field("rotation_degrees", 400.0, "config.rotation_degrees is 400.0; it must be at most 180", IMAGENET),
    field("image_size", 10**6, "config.image_size is 1000000; it must be at most 8192", IMAGENET),
    field("eval_resize", 200, "config.eval_resize is 200 and config.image_size 224", IMAGENET),
    field("on_corrupt", "ignore", "config.on_corrupt is 'ignore'", IMAGENET),
    field("data_dir", "/no/such", "data_dir is '/no/such', where there is no folder", "configs/tiny_imagenet.py"),
    field("data_dir", "/no/such", "/no/such, which is no folder", "configs/cifar10.py"),
    field("data_dir", "/data/cifar10", "the folder that holds cifar10: /data", "configs/cifar10.py"),
    field("dataset", "npz", "data_dir is not set; data set 'npz' needs the path of a .npz file"),
    field("data_dir", "/no/such.npz", "data_dir is '/no/such.npz', where there is no file", dataset="npz"),
    field("data_dir", "", "config.data_dir is ''; it must be a text that is not empty"),
    field("init_from", "", "config.init_from is ''; it must be a text that is not empty"),
    field("init_from", "/no/run", "/no/run does not exist; give the workdir of a run, a PyTorch file"),
    field("teacher", "", "config.teacher is ''; it must be a text that is not empty"),
    field("teacher", "/no/run", "/no/run does not exist; give the workdir of a run, a PyTorch file"),
]

SECTIONS = {
    "command": COMMAND, "config files": CONFIG_FILES, "fields": FIELDS, "arrays": data.ARRAYS, "data": data.DATA,
    "records": data.RECORDS, "runs": runs.RUNS, "PyTorch files": runs.TORCH_FILES,
}  # fmt: skip
ROWS = [row for section in SECTIONS.values() for row in section]
