"""Tests `recu predict`."""

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


@pytest.mark.parametrize("channels, right", [(3, True), (1, True), (2, False)])
def test_pictures_of_other_channels_than_the_network_has(channels, right, tmp_path, capsys, refusal):
    """Gray and transparent pictures are converted to the network's channels. Some networks take no pictures."""
    shape = (*SHAPE[:2], channels)
    path = tmp_path / "network.recu"
    container.write(path, *file_of("digits_resnet8", variables_of("digits_resnet8", shape)[1], shape))
    gray = np.random.default_rng(0).integers(0, 256, SHAPE[:2], np.uint8)
    transparent = np.stack([gray, gray, gray, np.full_like(gray, 255)], -1)
    pictures = [tmp_path / "gray.png", tmp_path / "transparent.png"]
    for picture, pixels in zip(pictures, (gray, transparent), strict=True):
        cv2.imwrite(str(picture), pixels)
    if not right:
        line = refusal(predict.main, path, *pictures)
        assert f"digits_resnet8 takes images of {channels} channels, and pictures are read as 1 (gray) or 3" in line
        return
    predict.main([str(path), *map(str, pictures)])
    first, second = (line.split(": ", 1)[1] for line in capsys.readouterr().out.splitlines())
    logits = np.asarray(deploy.load(path).predict(np.repeat(gray[None, ..., None], channels, -1)))[0]
    assert first == second and first.startswith(f"class {logits.argmax()} ")


def test_mistakes_are_one_line(file, tmp_path, refusal):
    (tmp_path / "text").write_text("this is no picture and no network")
    assert "cannot be read: No such file" in refusal(predict.main, tmp_path / "no.recu", "a.png")
    assert "is damaged or no file of `recu export`" in refusal(predict.main, tmp_path / "text", "a.png")
    assert "a.png cannot be read: No such file" in refusal(predict.main, file, tmp_path / "a.png")
    assert "is no picture that can be decoded" in refusal(predict.main, file, tmp_path / "text")
    assert "the following arguments are required: IMAGE" in refusal(predict.main, file)


def test_a_folder_of_a_networks_name_is_named(tmp_path, monkeypatch, refusal):
    (tmp_path / "digits_resnet8").mkdir()
    monkeypatch.chdir(tmp_path)
    line = refusal(predict.main, "digits_resnet8", "a.png")
    assert "holds no checkpoint" in line and "the folder digits_resnet8 here comes before the network" in line
