"""Defines rows of `bad_input`: checkpoints, workdirs, and files of PyTorch."""

import numpy as np

from tests.robustness.bad_input import Row, source, torch_import
from tests.support import bad_files as bad
from tests.support.bad_files import OFFICIAL, zeros

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
        "evaluation of a run on images of another shape",
        "digits has images of 8x8x1; the run was trained on 8x8x3 of npz",
        lambda d: bad.evaluation(bad.run(d, channels=3)),
    ),
    Row(
        "evaluation of a run on more classes",
        "digits has 10 classes (0, 1, 2, and 7 more); the run was trained on the 5 of npz",
        lambda d: bad.evaluation(bad.run(d, classes=5)),
    ),
    Row(
        "a check of an export without the data of the run",
        "data_dir is 'gone.npz', where there is no file",
        lambda d: [bad.run(d), f"--out={d / 'x.recu'}", "--check"],
        "export",
    ),
    Row(
        "more epochs than the run planned",
        "epochs was 50 and is 60; give these fields their old values or another --workdir; the schedules end with the "
        "planned epochs: to train on, start another --workdir with --config.init_from=DIR/trained",
        lambda d: [
            "--config=configs/digits.py",
            "--config.num_devices=1",
            "--config.epochs=60",
            f"--workdir={bad.run(d, dataset='digits', data_dir=None, epochs=50)}",
        ],
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
        "init_from a run of other classes",
        "imported has 7 classes and digits has 10; --config.fresh_head=True starts the last layer afresh, and "
        "--config.freeze=",
        lambda d: bad.workdir(d, classes=7),
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
    source(
        "a teacher with 1-bit weights",
        "imported', a run with conv 'binary', and a teacher is full precision; give the workdir of a run with",
        bad.workdir,
        "teacher",
        teacher_model="digits_resnet8",
    ),
    source(
        "a teacher with another nonlinearity",
        "config.teacher_nonlinearity is None, and DIR/trained holds a run with nonlinearity 'identity'; use "
        "--config.teacher_nonlinearity=identity",
        lambda d: bad.run(d, conv="float", nonlinearity="identity"),
        "teacher",
        teacher_model="digits_resnet8",
    ),
    source("a teacher that is a text", "and is not loaded: only tensors", bad.text, "teacher", needs=("torch",)),
    Row(
        "export of a run without a checkpoint",
        "holds no checkpoint of a whole epoch",
        lambda d: [bad.empty_run(d), d / "x.pth"],
        "export-torch",
    ),
    Row(
        "export onto a file that is there",
        "notes.txt is already there; give the path of a new file",
        lambda d: [d / "run", bad.text(d)],
        "export-torch",
    ),
    Row(
        "export without a file",
        "the following arguments are required: FILE; see recu export-torch --help",
        lambda d: [d / "run"],
        "export-torch",
    ),
    Row(
        "export into a folder that is not there",
        "cannot be written: No such file or directory; give a path in a folder that exists",
        lambda d: [bad.workdir(d, "cifar_resnet20", 3), d / "no" / "x.pth"],
        "export-torch",
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
    torch_import(
        "a PyTorch file of two state_dicts",
        "holds 2 state_dicts: model, model_ema; choose one with recu import-torch --key=NAME",
        lambda d: bad.torch_file(d, {k: {"conv1.weight": zeros(3)} for k in ("model", "model_ema")}),
    ),
    torch_import(
        "a key that the file has not",
        "the key of the state_dict is 'ema', which does not exist; it must be one of: state_dict",
        lambda d: OFFICIAL,
        "--model=cifar_resnet20",
        "--key=ema",
    ),
    torch_import(
        "a file of safetensors cut off",
        "weights.safetensors is no whole file of safetensors",
        lambda d: bad.cut(bad.safetensors_file(d)),
        needs=(),
    ),
    torch_import(
        "a file of safetensors of no model",
        "it fits no model of this library",
        bad.safetensors_file,
        needs=(),
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
    torch_import("a tensor of a million million views of a number", "declares tensors of 4000000000000", bad.views),
    torch_import("a hundred entries of one tensor", "declares tensors of 40000000 bytes", bad.one_tensor_for_many),
    Row(
        "import into a workdir that is there",
        "already holds checkpoints; give another --workdir",
        lambda d: [OFFICIAL, "--model=cifar_resnet20", f"--workdir={bad.workdir(d)}"],
        "import-torch",
        ("torch",),
    ),
    Row(
        "import into a file",
        "notes.txt cannot be written to: ",
        lambda d: [OFFICIAL, "--model=cifar_resnet20", f"--workdir={bad.text(d)}"],
        "import-torch",
        ("torch",),
    ),
]
