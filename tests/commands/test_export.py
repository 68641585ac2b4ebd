"""Exports a run and predicts with its file, each command in its own process. Tests mistakes, too."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest

from recu_jax import deploy
from recu_jax.commands import export
from recu_jax.data import digits
from recu_jax.deploy.c import compiled
from tests.support import bad_files, forked


def command(name, *args):
    """Runs a command and returns its output."""
    done = forked.run(name, list(args))
    assert done.status == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Returns the workdir of a digits run of two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    command("main", "--config=configs/digits.py", "--config.epochs=2", f"--workdir={folder}")
    return folder


@pytest.mark.slow
def test_from_a_run_to_a_prediction(workdir, tmp_path):
    file = tmp_path / "digits.recu"
    wrote, checked = command("export", workdir, f"--out={file}", "--check").splitlines()
    assert wrote.startswith(f"{file} holds digits_resnet8 in {file.stat().st_size} bytes, 21.")
    assert checked.startswith("360 test images: 0 differing predictions")
    assert re.search(
        r"the file computes \d+ images/s, the trained model in Flax \d+: the (file|trained model) is", checked
    )
    result = json.loads((tmp_path / "digits.recu.check.json").read_text())
    assert set(result) == {
        "images", "differing_predictions", "max_logit_difference", "bytes", "float32_bytes", "images_per_second",
        "float_images_per_second",
    }  # fmt: skip
    assert (result["images"], result["differing_predictions"], result["bytes"]) == (360, 0, file.stat().st_size)
    assert result["max_logit_difference"] < 1e-4 and result["float32_bytes"] == 1489704
    assert result["images_per_second"] > 0 and result["float_images_per_second"] > 0

    data, pictures = digits.load(), []
    for i in range(12):
        pictures.append(tmp_path / f"{i}.png")
        cv2.imwrite(str(pictures[-1]), data.test_images[i])
    lines = command("predict", file, *pictures).splitlines()
    right = 0
    for line, picture, label in zip(lines, pictures, data.test_labels, strict=False):
        assert line.startswith(f"{picture}: ") and line.count("%") == 5
        right += line.split(": ")[1].startswith(f"{label} ")
    assert len(lines) == 12 and right >= 9  # after only two epochs of training


@pytest.mark.slow
def test_stablehlo(workdir, tmp_path):
    pytest.importorskip("flatbuffers")
    file = tmp_path / "digits.stablehlo"
    lines = command("export", workdir, f"--out={file}", "--format=stablehlo", "--check").splitlines()
    assert lines[-1].startswith("360 test images: 0 differing predictions")


def _check_logits(ours, theirs):
    """Checks that logits agree to 1e-5 of the largest, but for 1% of the images.

    The first convolution is of real numbers. Each engine adds in another order, so a sign at 0 may differ, and then
    so do all logits of its image. How many images there are depends on the trained network.
    """
    near = abs(ours - theirs).max(-1) < 1e-5 * abs(theirs).max()
    assert near.mean() > 0.99


@pytest.mark.slow
def test_c(workdir, tmp_path):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler; install gcc or clang")
    folder = tmp_path / "digits"
    wrote, checked = command("export", workdir, f"--out={folder}/", "--format=c", "--check").splitlines()
    assert wrote.startswith(f"{folder}/ holds digits_resnet8 in ") and ", 22." in wrote
    assert json.loads((tmp_path / "digits.check.json").read_text())["differing_predictions"] == 0
    assert checked.startswith("360 test images: 0 differing predictions")
    # Compare with the runtime of .recu files, for each image.
    command("export", workdir, f"--out={tmp_path / 'digits.recu'}")
    images = digits.load().test_images
    theirs = np.asarray(deploy.load(tmp_path / "digits.recu").predict(images))
    _check_logits(compiled.predictor(folder)(images), theirs)


@pytest.mark.slow
def test_onnx(workdir, tmp_path):
    """onnxruntime predicts every test image as the trained model does, and OpenVINO gives the same logits."""
    pytest.importorskip("onnxruntime", reason="pip install 'recu_jax[onnx]'")
    file = tmp_path / "digits.onnx"
    wrote, checked = command("export", workdir, f"--out={file}", "--format=onnx", "--check").splitlines()
    assert checked.startswith("360 test images: 0 differing predictions")
    result = json.loads((tmp_path / "digits.onnx.check.json").read_text())
    command("export", workdir, f"--out={tmp_path / 'digits.recu'}")
    images = digits.load().test_images
    logits = onnxruntime_logits(file, images)
    _check_logits(logits, np.asarray(deploy.load(tmp_path / "digits.recu").predict(images)))
    # Each binary weight takes one byte, so the file is almost 4 times smaller than float32.
    assert " 3.8 times less" in wrote and result["bytes"] < result["float32_bytes"] / 3.7

    openvino = pytest.importorskip("openvino", reason="pip install openvino")
    network = openvino.Core().compile_model(str(file), "CPU")
    _check_logits(network(images)[0], logits)
    assert (network(images[:7])[0].argmax(-1) == logits[:7].argmax(-1)).all()


def onnxruntime_logits(file, images):
    import onnxruntime

    return onnxruntime.InferenceSession(str(file)).run(None, {"images": images})[0]


def test_mistakes_are_one_line(tmp_path, refusal, monkeypatch):
    imported = bad_files.workdir(tmp_path)
    of_digits = (imported, "--dataset=digits")
    assert "holds no checkpoints; train first" in refusal(export.main, tmp_path, "--out=x")
    assert "holds imported weights, of no data set; give `recu export` --dataset=NAME" in refusal(
        export.main, imported, "--out=x"
    )
    assert "cannot be written: No such file" in refusal(export.main, *of_digits, f"--out={tmp_path}/no/x")
    assert "has 10 classes and npz 3; give its --dataset" in refusal(
        export.main, imported, f"--out={tmp_path / 'x'}", "--dataset=npz", _npz(tmp_path)
    )
    c = (*of_digits, "--format=c")
    assert "the folder is 'my-net', and its name is the network's in C" in refusal(
        export.main, *c, f"--out={tmp_path}/my-net"
    )
    assert "cannot be made a folder: No such file" in refusal(export.main, *c, f"--out={tmp_path}/no/net")
    monkeypatch.setenv("CC", "no-such-compiler")
    line = "the C compiler 'no-such-compiler' is not installed"
    assert line in refusal(export.main, *c, f"--out={tmp_path}/net", "--check")
    assert "invalid choice: 'tflite'" in refusal(export.main, *of_digits, "--out=x", "--format=tflite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["imported", "three.npz"]


def _npz(folder):
    """Writes images of three classes."""
    images, labels = np.zeros((3, 8, 8, 1), np.uint8), np.arange(3)
    np.savez(folder / "three.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    return f"--data_dir={folder / 'three.npz'}"
