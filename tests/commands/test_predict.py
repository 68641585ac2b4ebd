"""What is on a picture, by the command."""

import cv2
import numpy as np
import pytest

from recu_jax import deploy
from recu_jax.commands import predict
from recu_jax.deploy import container
from tests.support.random_networks import SHAPE, file_of, variables_of


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "digits.recu"
    container.write(path, *file_of("digits_resnet8", variables_of("digits_resnet8", SHAPE)[1], SHAPE))
    return path


def test_five_classes_a_picture_the_most_probable_first(file, tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), np.uint8)
    paths = [str(tmp_path / f"{i}.png") for i in range(2)]
    for path, image in zip(paths, images, strict=True):
        cv2.imwrite(path, image)
    predict.main([str(file), *paths])
    logits = np.asarray(deploy.load(file).predict(images), np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for line, path, p in zip(capsys.readouterr().out.splitlines(), paths, probabilities, strict=True):
        best = np.argsort(-p)[:5]
        assert line == f"{path}: " + ", ".join(f"class {i} {p[i]:.1%}" for i in best)


def test_mistakes_are_one_line(file, tmp_path, refusal):
    (tmp_path / "text").write_text("this is no picture and no network")
    assert "cannot be read: No such file" in refusal(predict.main, tmp_path / "no.recu", "a.png")
    assert "is damaged or no file of `recu export`" in refusal(predict.main, tmp_path / "text", "a.png")
    assert "a.png cannot be read: No such file" in refusal(predict.main, file, tmp_path / "a.png")
    assert "is no picture that can be decoded" in refusal(predict.main, file, tmp_path / "text")
    assert "the following arguments are required: IMAGE" in refusal(predict.main, file)
