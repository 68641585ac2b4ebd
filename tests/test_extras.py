"""Checks what a command says when a package is missing, and that the named `pip install` installs that package."""

import importlib.metadata
import re

import pytest
from packaging.requirements import Requirement

from tests.support import ROOT, bad_files, commands, forked, small_runs
from tests.support.metadata import metadata, packages
from tests.support.written_runs import write_run

# By module, the extra that the message tells the user to install. For other modules it names the package itself.
EXTRAS = {
    "array_record": "data", "cv2": "data", "grain": "data", "onnx": "onnx", "onnxruntime": "onnx", "PIL": "data",
    "plotly": "report", "tensorflow_datasets": "data", "torch": "torch",
}  # fmt: skip
# Modules whose package has another name.
PACKAGES = {"cv2": "opencv-python-headless", "PIL": "pillow", "tensorflow_datasets": "tensorflow-datasets"}


def train(*fields):
    return lambda run, folder: ["train", "--config=configs/digits.py", f"--workdir={folder / 'new'}", *fields]


def export(name, *options):
    return lambda run, folder: ["export", run, f"--out={folder / 'file'}", f"--format={name}", *options]


def photographs(run, folder):
    fields = {
        "dataset": "image_folder", "data_dir": bad_files.image_folder(folder / "images"), "image_size": 16,
        "eval_resize": 16, "batch_size": 4, "eval_batch_size": 4,
    }  # fmt: skip
    return train(*(f"--config.{name}={value}" for name, value in fields.items()))(run, folder)


# Each row is the module that is missing, and a command that needs it.
ROWS = [
    ("tensorflow_datasets", train("--config.dataset=cifar10")),
    ("array_record", train("--config.dataset=cifar10")),
    ("cv2", train("--config.dataset=cifar10")),
    ("grain", photographs),
    ("PIL", photographs),
    ("wandb", train("--config.tracker=wandb")),
    ("trackio", train("--config.tracker=trackio")),
    ("s3fs", lambda run, folder: ["train", "--config=configs/digits.py", "--workdir=s3://bucket/run"]),
    ("gcsfs", lambda run, folder: ["eval", "--config=configs/digits.py", "--workdir=gs://bucket/run"]),
    ("plotly", lambda run, folder: ["report", write_run(folder / "written")]),
    ("flatbuffers", export("stablehlo")),
    ("onnx", export("onnx")),
    ("onnx", export("qonnx")),
    ("onnxruntime", export("onnx", "--check")),
    ("qonnx", export("qonnx", "--check")),
    (
        "torch",
        lambda run, folder: ["import-torch", bad_files.OFFICIAL, "--model=cifar_resnet20", f"--workdir={folder / 'i'}"],
    ),
    ("torch", lambda run, folder: ["export-torch", run, folder / "o.pth"]),
]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Returns a workdir of a run on the digits."""
    return small_runs.recorded(small_runs.digits(), tmp_path_factory.mktemp("runs") / "digits")


@pytest.mark.slow
@pytest.mark.parametrize("missing, command", ROWS)
def test_a_command_says_in_one_line_what_to_type(missing, command, recorded, tmp_path):
    name, *arguments = map(str, command(recorded, tmp_path))
    ended = forked.run(name, arguments, without=missing)
    to_type = f"'recu_jax[{EXTRAS[missing]}]'" if missing in EXTRAS else missing
    assert ended.status == 2
    assert commands.the_line(ended.stderr) == f"error: {missing} is not installed; type: pip install {to_type}\n"
    assert not (tmp_path / "file").exists()  # also with `recu export --check`


@pytest.mark.slow
def test_predict_says_it_too(recorded, tmp_path):
    assert forked.run("export", [str(recorded), f"--out={tmp_path / 'x.recu'}"]).status == 0
    for missing in ("cv2", "PIL"):
        ended = forked.run("predict", [str(tmp_path / "x.recu"), "seven.png"], without=missing)
        assert ended.status == 2
        line = f"error: {missing} is not installed; type: pip install 'recu_jax[data]'\n"
        assert commands.the_line(ended.stderr) == line


def test_every_call_of_require_is_tried_here():
    """Finds only names that are literal in a call. For calls with a variable, `ROWS` has the names, too."""
    source = "".join(file.read_text() for file in (ROOT / "recu_jax").rglob("*.py"))
    asked = {name for call in re.findall(r" require\(([^)]*)\)", source) for name in re.findall(r'"(\w+)"', call)}
    assert {"cv2", "plotly", "torch"} <= asked
    assert asked - set(EXTRAS.values()) <= {missing for missing, _ in ROWS}


def test_what_to_type_brings_the_package():
    for module in {missing for missing, _ in ROWS}:
        package = PACKAGES.get(module, module)
        assert package in packages("all"), f"recu_jax[all] lacks {package}"
        if module in EXTRAS:
            assert package in packages(EXTRAS[module]), f"recu_jax[{EXTRAS[module]}] lacks {package}"


def test_the_extras_are_those_of_the_docs():
    extras = metadata().get_all("Provides-Extra")
    listed = re.findall(r"^\| `(\w+)` \| .* \|$", (ROOT / "docs" / "start.md").read_text(), re.MULTILINE)
    assert len(extras) == 7 and [name for name in listed if name in extras] == extras


def needed(*names):
    """Returns `names` and the names of all packages that they need without extras, directly or indirectly."""
    found, left = set(), [re.sub(r"[-_.]+", "-", name).lower() for name in names]
    while left:
        if (name := left.pop()) not in found:
            found.add(name)
            requirements = map(Requirement, importlib.metadata.requires(name) or ())
            here = [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
            left += [re.sub(r"[-_.]+", "-", name).lower() for name in here]
    return found


def test_a_user_of_layers_gets_few_packages():
    beyond = needed(*packages(None)) - needed("jax", "flax")
    assert {"filelock", "scikit-learn", "tqdm"} <= beyond and len(beyond) < 15, sorted(beyond)
