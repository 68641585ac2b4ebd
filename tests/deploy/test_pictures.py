"""Tests how pictures are converted for a network, and how its logits become names of classes."""

import cv2
import numpy as np
import pytest
from PIL import Image

from recu_jax import UserError, deploy
from recu_jax.data.transform import Transform
from recu_jax.deploy import model
from recu_jax.deploy.pictures import read_image, top
from tests.support.random_networks import file_of, variables_of


def test_the_most_probable_classes_first():
    logits = np.array([0.0, 3.0, -1.0, 3.0, 1.0], np.float32)
    p = np.exp(np.float64(logits)) / np.exp(np.float64(logits)).sum()
    assert top(logits, "abcde", 3) == [
        ("b", pytest.approx(p[1])),
        ("d", pytest.approx(p[3])),
        ("e", pytest.approx(p[4])),
    ]
    assert [name for name, _ in top(logits, (), 2)] == ["1", "3"]
    assert top(np.array([1000.0, 0.0], np.float32), "ab")[0] == ("a", 1.0)  # nothing overflows


def test_a_picture_of_small_images_is_squeezed_and_made_grey(path, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    got = read_image(str(tmp_path / "a.png"), deploy.load(path))
    squeezed = Image.fromarray(image).resize((8, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(got[..., 0], np.asarray(squeezed.convert("L")))
    assert got.shape == (8, 8, 1)


def test_a_photograph_is_cropped_as_in_the_evaluation(tmp_path):
    shape = (16, 16, 3)
    header, arrays = file_of("digits_resnet8", variables_of("digits_resnet8", shape)[1], shape)
    loaded = model.parse(header | {"preprocessing": {"crop": "random_resized", "eval_resize": 20}}, arrays)
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.jpg"), image)
    expected = Transform(16, eval_resize=20).evaluate((tmp_path / "a.jpg").read_bytes())
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.jpg"), loaded), expected)


def test_no_file_and_no_picture(path, tmp_path):
    loaded = deploy.load(path)
    with pytest.raises(UserError, match=r"a.png cannot be read: No such file"):
        read_image(str(tmp_path / "a.png"), loaded)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"a.png is no picture that can be decoded"):
        read_image(str(tmp_path / "a.png"), loaded)
