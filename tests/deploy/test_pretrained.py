"""Tests that pretrained networks have the accuracy of their model cards, and that `recu predict` takes their names."""

import io
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import recu_jax
from recu_jax import data, networks


def said(name):
    """Returns the test top-1 (percent) that the model card gives."""
    return float(re.search(r"test top-1 \| ([0-9.]+)%", networks.file(name, ".md").read_text()).group(1))


@pytest.fixture(scope="module")
def photographs():
    """Returns the first 100 test images of CIFAR-10 as JPEG files (quality 75), and their labels."""
    with np.load(pathlib.Path(__file__).with_name("cifar10_sample.npz")) as file:
        return np.split(file["bytes"], np.cumsum(file["sizes"].astype(int))[:-1]), file["labels"]


def test_digits_as_the_card_says():
    test = data.load("digits")
    logits = recu_jax.pretrained("digits_resnet8").predict(test.test_images)
    right = (np.asarray(logits).argmax(-1) == test.test_labels).mean()
    assert f"{100 * right:.2f}" == f"{said('digits_resnet8'):.2f}"


def test_photographs(photographs):
    """The top-1 of all 10,000 was 83.55%, that of these 100 was 86%. Other machines may round a sign at 0 otherwise."""
    image = pytest.importorskip("PIL.Image", reason="the package pillow is needed")
    files, labels = photographs
    images = np.stack([np.asarray(image.open(io.BytesIO(file.tobytes())).convert("RGB")) for file in files])
    network = recu_jax.pretrained("cifar_resnet20")
    right = (np.asarray(network.predict(images)).argmax(-1) == labels).sum()
    assert abs(right - 86) <= 2
    assert said("cifar_resnet20") == 83.55


def test_predict_takes_a_name(photographs, tmp_path):
    pytest.importorskip("PIL", reason="the package pillow is needed")
    files, labels = photographs
    paths = []
    for i, label in [(i, label) for i, label in enumerate(labels) if label == 8][:5]:
        paths.append(tmp_path / f"{i}-{label}.jpg")
        paths[-1].write_bytes(files[i].tobytes())
    command = [sys.executable, "-m", "recu_jax", "predict", "cifar_resnet20", *map(str, paths)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    wrong = [*command[:4], "cifar_resnet2", str(paths[0])]
    assert "did you mean 'cifar_resnet20'" in subprocess.run(wrong, capture_output=True, text=True).stderr
    first = [line.split(": ")[1].split()[0] for line in done.stdout.splitlines()]
    assert len(first) == 5 and first.count("ship") >= 3
