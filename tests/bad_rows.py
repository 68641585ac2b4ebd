"""The rows of `bad_input`: command line, config files, fields, data, records, checkpoints, PyTorch files."""

import zipfile

import bad_files as bad
import numpy as np
from bad_files import OFFICIAL
from bad_input import ROOT, Row, config_file, field, npz, photos, source, tfds, the_command, torch_import

IMAGENET = "configs/imagenet.py"

COMMAND = [
    the_command("no --config", "--config is not set; give an experiment", config=None),
    the_command("--config of no file", "--config=configs/digit.py does not exist", config="configs/digit.py"),
    the_command("a part that the config has not",
        "it must be one of: stage1, stage2", config="configs/imagenet_two_stage.py:stage3"),
    the_command("a part of a config without parts",
        "get_config() takes 0 positional arguments", config="configs/digits.py:x"),
    the_command("a field that is not there",
        "--config field is 'epoch', which does not exist; did you mean 'epochs'?", "--config.epoch=3"),
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
    config_file("a config without get_config", "get_config", lambda d: ROOT / "tests" / "golden_values.py"),
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
    config_file("a config that lacks fields", "config.augment is missing; start from recu_jax.config.base_config()",
                lambda d: bad.config(d, ["return ConfigDict({'epochs': 3})"], "from ml_collections import ConfigDict")),
]  # fmt: skip

FIELDS = [
    field("tau_min", 0.4, "config.tau_min is 0.4"),
    field("tau_min", 0.95, "0.5 < tau_min <= tau_max <= 1", tau_max=0.9),
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
    field("epochs", 10**15, "a run holds at most 2147483647 steps, 97612893 epochs"),
    field("num_workers", 10**6, "config.num_workers is 1000000; it must be at most 1024"),
    field("seed", 2**32, "config.seed is 4294967296; it must be at most 4294967295"),
    field("learning_rate", 0.0, "config.learning_rate is 0.0; it must be above 0"),
    field("learning_rate", "inf", "config.learning_rate is inf; it must be a finite number"),
    field("momentum", 1.0, "config.momentum is 1.0; it must be at least 0 and below 1"),
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
    field("init_from", "/no/run", "/no/run does not exist; give the workdir of a run, or a PyTorch file"),
    field("teacher", "", "config.teacher is ''; it must be a text that is not empty"),
    field("teacher", "/no/run", "/no/run does not exist; give the workdir of a run, or a PyTorch file"),
]

ARRAYS = [
    npz("data set npz: a folder", "where there is no file", lambda d: d),
    npz("npz: a text", "notes.txt cannot be read as a .npz file", bad.text),
    npz("npz: an empty file", "cannot be read as a .npz file", lambda d: bad.text(d, content="")),
    npz("npz: cut off", "cannot be read as a .npz file without pickles: File is not a zip file",
        lambda d: bad.cut(bad.npz(d))),
    npz("npz: an array is not there", "lacks test_labels", lambda d: bad.npz(d, test_labels=None)),
    npz("npz: floats for pixels",
        "train_images is float64", lambda d: bad.npz(d, train_images=np.zeros((20, 8, 8, 3)))),
    npz("npz: too few axes", "train_images is uint8 of shape (20, 8)",
        lambda d: bad.npz(d, train_images=np.zeros((20, 8), np.uint8))),
    npz("npz: a label too few", "one integer for each of the 20", lambda d: bad.npz(d, train_labels=np.arange(19))),
    npz("npz: floats for labels", "train_labels is float64", lambda d: bad.npz(d, train_labels=np.zeros(20))),
    npz("npz: a label below 0", "test_labels run from -1", lambda d: bad.npz(d, test_labels=np.arange(6) - 1)),
    npz("npz: a label of a million million",
        "at most 100000", lambda d: bad.npz(d, train_labels=np.arange(20) * 10**12)),
    npz("npz: images of two sizes", "they must have one shape",
        lambda d: bad.npz(d, test_images=np.zeros((6, 9, 9, 3), np.uint8))),
    npz("npz: no test images", "test_images is empty",
        lambda d: bad.npz(d, test_images=np.zeros((0, 8, 8, 3), np.uint8), test_labels=np.zeros(0, int))),
    npz("npz: images without channels", "images without pixels",
        lambda d: bad.npz(d, train_images=np.zeros((20, 8, 8, 0), np.uint8))),
    npz("npz: images that the model cannot halve",
        "images are 9x9, 9x9 before the first shortcut; the model needs multiples of 4",
        lambda d: bad.square_npz(d, 9)),
    npz("npz: 10^12 elements stated, 64 there", "states 1000000000000 bytes and has at most",
        bad.npz_with_header),
    npz("npz: a file of 400 KB that unpacks to 400 MB", "more than 100 times as many",
        lambda d: bad.npz_with_header(d, 10**8, 10**8, zipfile.ZIP_DEFLATED)),
    npz("npz: Python objects with code", "without pickles", lambda d: bad.npz_with_code(d, d / "ran")),
    npz("npz: a pickle with code", "without pickles", lambda d: bad.pickled(d, d / "ran")),
]  # fmt: skip

DATA = [
    photos(
        "a folder of images without train", "has no folder 'train'", lambda d: bad.without(bad.image_folder(d), "train")
    ),
    photos(
        "a folder of images without val",
        "has none of the folders 'val', 'validation', 'test'",
        lambda d: bad.without(bad.image_folder(d), "val"),
    ),
    photos(
        "a class that train has not",
        "val has the class folder 'bird' (1 of 3 such), which train has not",
        lambda d: bad.another(bad.image_folder(d), "val/bird/0.jpg"),
    ),
    photos("a class without images", "cat holds no images (.jpg", bad.no_cats),
    photos(
        "more in a batch than images",
        "config.batch_size is 9; image_folder has only 8 training images",
        bad.image_folder,
        batch_size=9,
    ),
    photos(
        "a batch that no memory holds",
        "GiB of 8192x8192 images, and this machine has",
        bad.image_folder,
        image_size=8192,
        eval_resize=8192,
        eval_batch_size=10**6,
    ),
    photos(
        "images that the model cannot halve",
        "images are 72x72, 18x18 before the first shortcut; the model needs multiples of 8",
        bad.image_folder,
        model="react_resnet18",
        image_size=72,
        eval_resize=72,
    ),
    photos(
        "annotations: an unknown class",
        "gives 'val_0.JPEG' the class 'n03', which train has not",
        lambda d: bad.tiny_imagenet(d, "val_0.JPEG\tn03\t0\n"),
        "tiny_imagenet",
    ),
    photos(
        "annotations: nothing",
        "val_annotations.txt names no images",
        lambda d: bad.tiny_imagenet(d, "\n"),
        "tiny_imagenet",
    ),
    photos(
        "annotations: an image that is not there",
        "gone.JPEG is not there, though val_annotations.txt names it",
        lambda d: bad.tiny_imagenet(d, "gone.JPEG\tn01\n"),
        "tiny_imagenet",
    ),
    photos(
        "annotations: a path out of the folder",
        "names the file '../../x'; it must name a file in 'images'",
        lambda d: bad.tiny_imagenet(d, "../../x\tn01\n"),
        "tiny_imagenet",
    ),
    photos(
        "annotations: no text",
        "val_annotations.txt is no text in UTF-8; unpack the archive anew",
        lambda d: bad.tiny_imagenet(d, bytes(range(128, 256))),
        "tiny_imagenet",
    ),
    tfds(
        "TFDS: an empty folder",
        "no cifar10 in DIR; to have TFDS download and prepare it there, once, type: pip install",
        lambda d: d,
    ),
    tfds(
        "TFDS: a cut-off description", "TFDS cannot read cifar10 in DIR: ", lambda d: bad.tfds(d, damage=bad.cut_info)
    ),
    tfds(
        "TFDS: files of records that are not there",
        "is not there (1 of 1 files of split 'train'); copy it there",
        lambda d: bad.tfds(d, damage=bad.remove_shards),
    ),
    tfds(
        "TFDS: a damaged record",
        "cannot decode train image",
        lambda d: bad.tfds(d, damage=bad.overwrite_shards(b"\xff" * 64)),
    ),
    tfds(
        "ImageNet: files of records that are not there",
        "of split 'train'); copy it there, or prepare the data set again",
        lambda d: bad.tfds(d, "imagenet2012", bad.remove_shards),
        "imagenet2012",
    ),
]

RECORDS = [
    photos(
        "a cut-off JPEG",
        "): truncated: a JPEG without its end-of-image marker; ",
        lambda d: bad.image_folder(d, train=bad.photograph()[:-40]),
    ),
    photos(
        "a cut-off PNG",
        "): truncated or damaged: a PNG without its end; ",
        lambda d: bad.image_folder(d, train=bad.photograph(kind=".png")[:-60]),
    ),
    photos(
        "a JPEG that states 65,500 x 65,500 pixels",
        "states 65500x65500 pixels, more than its",
        lambda d: bad.image_folder(d, train=bad.of_stated_size(bad.photograph(), 65500)),
    ),
    photos(
        "nothing but corrupt images, to be skipped",
        "nor can the 1000 after it; look at the files",
        lambda d: bad.image_folder(d, train=b"<html>"),
        on_corrupt="skip",
    ),
    Row(
        "a corrupt test image",
        "val image 0 (DIR/val/cat/0.jpg): neither a JPEG nor a PNG, WebP or BMP",
        bad.evaluation_of_corrupt,
        needs=("cv2", "grain", "PIL"),
    ),
    tfds(
        "ImageNet: a damaged record",
        "cannot decode train image",
        lambda d: bad.tfds(d, "imagenet2012", bad.overwrite_shards(b"\xff" * 64)),
        "imagenet2012",
    ),
]

RUNS = [
    Row(
        "evaluation of no run",
        "DIR/run holds no checkpoints; train first, or give the --workdir of a run",
        lambda d: bad.evaluation(d / "run"),
    ),
    Row("evaluation of a file", "notes.txt holds no checkpoints", lambda d: bad.evaluation(bad.text(d))),
    Row(
        "evaluation of a run without a checkpoint",
        "holds no checkpoint of a whole epoch; train at least one epoch first",
        lambda d: bad.evaluation(bad.empty_run(d)),
    ),
    Row(
        "evaluation of a run of another model",
        "holds a run with model='cifar_resnet20', the config says 'digits_resnet8'",
        lambda d: bad.evaluation(bad.workdir(d, "cifar_resnet20")),
    ),
    Row(
        "evaluation with another conv",
        "holds a run with conv='float', the config says 'binary'",
        lambda d: bad.evaluation(bad.workdir(d, conv="float")),
    ),
    Row(
        "evaluation of other images",
        "params/conv1/kernel is (3, 3, 3, 64) and should be (3, 3, 1, 64)",
        lambda d: bad.evaluation(bad.workdir(d, channels=3)),
    ),
    Row(
        "training in an imported workdir",
        "holds weights imported from ones.pth.tar, not a run; train in another --workdir",
        lambda d: ["--config=configs/digits.py", f"--workdir={bad.workdir(d)}"],
    ),
    Row(
        "training where the only checkpoint is damaged",
        "the only checkpoint in DIR/imported/checkpoints is damaged (step 0: its record cannot be read",
        lambda d: ["--config=configs/digits.py", f"--workdir={bad.damaged(d)}"],
    ),
    Row(
        "evaluation of a damaged checkpoint",
        "DIR/imported/checkpoints/0 is damaged: its record cannot be read",
        lambda d: bad.evaluation(bad.damaged(d)),
    ),
    Row(
        "training where a checkpoint is an empty folder",
        "the only checkpoint in DIR/run_before/checkpoints is damaged (step 7: metadata is missing from its record",
        lambda d: ["--config=configs/digits.py", f"--workdir={bad.empty_run(d, '7')}"],
    ),
    Row(
        "training where the folder of checkpoints is a file",
        "DIR/run/checkpoints is a file; it must be the folder of checkpoints",
        lambda d: ["--config=configs/digits.py", f"--workdir={bad.text(d, 'run/checkpoints').parent}"],
    ),
    source("init_from a run without a checkpoint", "holds no checkpoint of a whole epoch", bad.empty_run, "init_from"),
    source(
        "init_from a run of another model",
        "holds a run of model 'cifar_resnet20'; it must be 'digits_resnet8'",
        lambda d: bad.workdir(d, "cifar_resnet20"),
        "init_from",
    ),
    source(
        "init_from a run on other images",
        "params/conv1/kernel is (3, 3, 3, 64) and should be (3, 3, 1, 64)",
        lambda d: bad.workdir(d, channels=3),
        "init_from",
    ),
    source(
        "a teacher of another model",
        "holds a run of model 'digits_resnet8'; it must be 'resnet34'",
        bad.workdir,
        "teacher",
    ),
    source("a teacher with 1-bit weights", "alpha is extra", bad.workdir, "teacher", teacher_model="digits_resnet8"),
    source("a teacher that is a text", "and is not loaded: only tensors", bad.text, "teacher", needs=("torch",)),
    Row(
        "export of a run without a checkpoint",
        "holds no checkpoint of a whole epoch",
        lambda d: [bad.empty_run(d), d / "x.pth"],
        "torch_export",
    ),
    Row(
        "export onto a file that is there",
        "notes.txt is already there; give the path of a new file",
        lambda d: [d / "run", bad.text(d)],
        "torch_export",
    ),
    Row(
        "export without a file",
        "the following arguments are required: FILE; see python -m recu_jax.torch_export --help",
        lambda d: [d / "run"],
        "torch_export",
    ),
    Row(
        "export into a folder that is not there",
        "cannot be written: No such file or directory; give a path in a folder that exists",
        lambda d: [bad.workdir(d, "cifar_resnet20", 3), d / "no" / "x.pth"],
        "torch_export",
        ("torch",),
    ),
]

TORCH_FILES = [
    torch_import(
        "import without a model",
        "the following arguments are required: --model",
        lambda d: OFFICIAL,
        "--conv=binary",
        needs=(),
    ),
    torch_import(
        "import with an unknown conv",
        "--conv: invalid choice: 'real'",
        lambda d: OFFICIAL,
        "--model=cifar_resnet20",
        "--conv=real",
        needs=(),
    ),
    torch_import(
        "a PyTorch file that is not there",
        "none.pth does not exist; give the path of a file that torch.save wrote",
        lambda d: d / "none.pth",
    ),
    torch_import("a folder for a PyTorch file", "cannot be read: Is a directory", lambda d: d),
    torch_import("a PyTorch file that is a text", "and is not loaded: only tensors, numbers and containers", bad.text),
    torch_import("a PyTorch file cut off", "is no whole file of torch.save", lambda d: bad.copy_of(OFFICIAL, d, 0.4)),
    torch_import(
        "a PyTorch file of another model", "it fits cifar_resnet20", lambda d: OFFICIAL, "--model=imagenet_resnet18"
    ),
    torch_import(
        "a PyTorch file of an unknown model",
        "did you mean 'cifar_resnet20'?",
        lambda d: OFFICIAL,
        "--model=cifar_resnet200",
    ),
    torch_import(
        "a PyTorch file with code",
        "carries code, posix.system, and is not loaded",
        lambda d: bad.torch_file(d, {"state_dict": bad.Code(d / "ran")}),
    ),
    torch_import(
        "a pickle with code for a PyTorch file",
        "and is not loaded: only tensors",
        lambda d: bad.pickled(d, d / "ran", "weights.pth"),
    ),
    torch_import(
        "a PyTorch file of a list", "holds a list; it must hold a state_dict", lambda d: bad.torch_file(d, [1, 2])
    ),
    torch_import("an empty state_dict", "holds an empty state_dict", lambda d: bad.torch_file(d, {})),
    torch_import(
        "a state_dict of numbers", "entry 'epoch' is a int, not a tensor", lambda d: bad.torch_file(d, {"epoch": 3})
    ),
    torch_import(
        "weights that are not finite",
        "params/bn1/bias must be floats, all of them finite",
        lambda d: bad.torch_file(d, **{"bn1.bias": np.full(16, np.nan, np.float32)}),
    ),
    torch_import(
        "weights that are whole numbers",
        "params/bn1/bias must be floats",
        lambda d: bad.torch_file(d, **{"bn1.bias": np.zeros(16, np.int32)}),
    ),
    torch_import("a tensor of a million million views of a number", "states tensors of 4000000000000", bad.views),
    Row(
        "import into a workdir that is there",
        "already holds checkpoints; give another --workdir",
        lambda d: [OFFICIAL, "--model=cifar_resnet20", f"--workdir={bad.workdir(d)}"],
        "torch_import",
        ("torch",),
    ),
    Row(
        "import into a file",
        "notes.txt cannot be written to: ",
        lambda d: [OFFICIAL, "--model=cifar_resnet20", f"--workdir={bad.text(d)}"],
        "torch_import",
        ("torch",),
    ),
]

ROWS = [*COMMAND, *CONFIG_FILES, *FIELDS, *ARRAYS, *DATA, *RECORDS, *RUNS, *TORCH_FILES]
