"""Compares crops, resizing and the pixels for evaluation with Pillow and formulas."""

import io
import math

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from recu_jax import UserError
from recu_jax.data.transform import Transform, random_box, resize_antialiased


@pytest.fixture(scope="module")
def photos():
    china, flower = (Image.fromarray(a) for a in load_sample_images().images)
    return [china, flower.crop((100, 50, 420, 427)), china.resize((120, 90)), flower.resize((61, 200))]


def encoded(image, kind):
    file = io.BytesIO()
    image.save(file, kind, quality=92)
    return file.getvalue()


def jpeg(image):
    return encoded(image, "JPEG")


def torchvision_eval(data, resize, size):
    """Computes torchvision's Resize(resize) and CenterCrop(size) of a PIL image, from their documentation."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = image.size
    short = min(width, height)
    new = tuple(resize if side == short else int(resize * side / short) for side in (width, height))
    image = image.resize(new, Image.Resampling.BILINEAR)
    top, left = round((new[1] - size) / 2.0), round((new[0] - size) / 2.0)
    return np.asarray(image.crop((left, top, left + size, top + size))).astype(int)


@pytest.mark.parametrize("resize,size", [(256, 224), (255, 224), (73, 64), (64, 64)])
def test_evaluation_is_torchvisions(photos, resize, size):
    transform = Transform(image_size=size, eval_resize=resize)
    for photo in photos:
        image = transform.evaluate(jpeg(photo))
        assert image.shape == (size, size, 3) and image.dtype == np.uint8
        # OpenCV and Pillow may be built with JPEG decoders that round differently.
        assert np.abs(image - torchvision_eval(jpeg(photo), resize, size)).max() <= 2


def test_without_augmentation_training_is_evaluation(photos):
    transform = Transform(64, eval_resize=73, augment=False, rotation_degrees=20)
    data = jpeg(photos[0])
    np.testing.assert_array_equal(transform.train(data, None), transform.evaluate(data))


def test_random_box_has_area_and_ratio_as_asked():
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(rng, 600, 700, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(5000)])
    top, left, height, width = boxes.T
    assert (boxes[:, :2] >= 0).all() and (top + height <= 600).all() and (left + width <= 700).all()
    share = height * width / (600 * 700)
    assert share.min() > 0.079 and share.max() <= 1
    # A box of less than half of the area always fits. So among these boxes, the area and the logarithm of the ratio are
    # uniformly distributed.
    small = share < 0.5
    np.testing.assert_allclose(np.quantile(share[small], [0.25, 0.5, 0.75]), [0.185, 0.29, 0.395], atol=0.02)
    log_ratio = np.log(width / height)[small] / math.log(4 / 3)
    np.testing.assert_allclose(np.quantile(log_ratio, [0, 0.25, 0.5, 0.75, 1]), [-1, -0.5, 0, 0.5, 1], atol=0.04)
    assert top.min() == 0 and left.min() == 0 and (top + height).max() == 600 and (left + width).max() == 700


def test_random_box_may_be_as_wide_or_as_high_as_the_image():
    rng = np.random.default_rng(0)
    boxes = {random_box(rng, 6, 6, (0.5, 1.0), (3 / 4, 4 / 3))[2:] for _ in range(500)}
    assert {(6, 5), (5, 6), (6, 6)} <= boxes


@pytest.mark.parametrize(
    "shape,expected",
    [
        ((10, 1000), (0, 493, 10, 13)),
        ((1000, 10), (493, 0, 13, 10)),
        ((1, 1000), (0, 499, 1, 1)),
        ((1000, 1), (499, 0, 1, 1)),
        ((100, 120), (0, 0, 100, 120)),
    ],
)
def test_where_no_box_fits_it_is_the_centre(shape, expected):
    assert random_box(np.random.default_rng(0), *shape, (1.0, 1.0), (3 / 4, 4 / 3)) == expected


@pytest.mark.parametrize("size,allowed", [(32, 3), (64, 3), (100, 2.5), (224, 2.5), (300, 2)])
def test_resize_is_near_pillows_antialiased_bilinear(photos, size, allowed):
    for photo in photos[:2]:
        expected = np.asarray(photo.resize((size, size), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(resize_antialiased(np.asarray(photo), size) - expected).mean() < allowed


@pytest.mark.parametrize("shrinks,allowed", [(1.75, 1.2), (2, 0.4), (2.35, 1.0)])
def test_resize_is_nearer_where_both_sides_shrink_alike(photos, shrinks, allowed):
    """OpenCV's INTER_AREA differs by 1.9, 4.1 and 2.2 for this photo."""
    photo = photos[0].crop((0, 0, 400, 400))
    size = round(400 / shrinks)
    expected = np.asarray(photo.resize((size, size), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(resize_antialiased(np.asarray(photo), size) - expected).mean() < allowed


@pytest.mark.parametrize("side", [64, 66, 1000])
@pytest.mark.parametrize("upright", [False, True])
def test_of_a_very_long_image_only_the_middle_is_resized(monkeypatch, side, upright):
    pixels = np.random.default_rng(0).integers(0, 256, (1, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.swapaxes(0, 1) if upright else pixels).save(file, "PNG")
    sizes, resize = [], Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *given: sizes.append(self.size) or resize(self, *given))
    got = Transform(4, eval_resize=4).evaluate(file.getvalue())
    assert sizes == [(1, 64) if upright else (64, 1)]
    monkeypatch.undo()
    np.testing.assert_array_equal(got, torchvision_eval(file.getvalue(), 4, 4))


def test_a_pattern_finer_than_the_pixels_becomes_grey():
    stripes = np.zeros((300, 300, 3), np.uint8)
    stripes[:, ::2] = 255
    got = resize_antialiased(stripes, 150)
    assert np.abs(got.astype(int) - 127.5).max() < 2
    assert cv2.resize(stripes, (120, 120), interpolation=cv2.INTER_NEAREST).std() > 100
    assert resize_antialiased(stripes, 50).std() < 2


# If a JPEG is decoded at half or a quarter of its size, a crop is shifted by up to one or two pixels of the file.
@pytest.mark.parametrize("size,allowed,kind", [(224, 2.5, "JPEG"), (64, 8, "JPEG"), (64, 4, "PNG")])
def test_training_is_crop_resize_flip(photos, size, allowed, kind):
    transform = Transform(image_size=size, eval_resize=size)
    data = encoded(photos[0], kind)
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    distances, flipped = [], 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        top, left, height, width = random_box(rng, *pixels.shape[:2], (0.08, 1.0), (3 / 4, 4 / 3))
        crop = Image.fromarray(pixels[top : top + height, left : left + width])
        expected = np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR)).astype(int)
        if rng.random() < 0.5:
            expected, flipped = expected[:, ::-1], flipped + 1
        got = transform.train(data, np.random.default_rng(seed))
        distances.append([np.abs(image - expected).mean() for image in (got, got[:, ::-1])])
    right, mirrored = np.transpose(distances)
    assert right.max() < allowed and (right < mirrored / 2).all()  # pixel values are from 0 to 255
    assert 4 < flipped < 16


def test_flip_can_be_left_out(photos):
    data = jpeg(photos[0])
    kept = Transform(32, eval_resize=32, crop="resize", flip=False)
    images = [kept.train(data, np.random.default_rng(seed)) for seed in range(8)]
    assert all((image == images[0]).all() for image in images)


def test_resize_takes_the_whole_image_and_rotation_turns_it(photos):
    data = jpeg(photos[3])
    whole = Transform(96, crop="resize", flip=False)
    expected = np.asarray(Image.open(io.BytesIO(data)).resize((96, 96), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(whole.evaluate(data) - expected).max() <= 2
    assert np.abs(whole.train(data, np.random.default_rng(0)) - expected).mean() < 2

    turning = Transform(96, crop="resize", flip=False, rotation_degrees=20)
    angles = []
    for seed in range(10):
        angle = np.random.default_rng(seed).uniform(-20, 20)
        turned = Image.fromarray(whole.train(data, np.random.default_rng(seed)))
        turned = np.asarray(turned.rotate(angle, Image.Resampling.BILINEAR)).astype(int)
        got = turning.train(data, np.random.default_rng(seed))
        assert np.abs(got - turned).mean() < 2.5
        angles.append(angle)
        assert abs(angle) < 5 or (got[0, 0] == 0).all()
    assert min(angles) < 0 < max(angles)


def test_rotation_turns_around_the_middle():
    pixels = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8), (5, 5), 1)
    symmetric = np.maximum(pixels, pixels[::-1, ::-1])  # turned by 180 degrees, it is the same
    data = encoded(Image.fromarray(symmetric), "PNG")
    turned = Transform(48, crop="resize", flip=False, rotation_degrees=20).train(data, np.random.default_rng(0))
    assert np.abs(turned.astype(int) - symmetric).mean() > 3
    assert np.abs(turned.astype(int) - turned[::-1, ::-1]).mean() < 0.5


@pytest.mark.parametrize(
    "values,message",
    [
        ({"crop": "random_resize"}, "did you mean 'random_resized'"),
        ({"image_size": 0}, "image_size is 0"),
        ({"image_size": 300}, "eval_resize is 256, smaller than image_size 300"),
        ({"area": (0.08, 1.25)}, "area is (0.08, 1.25)"),
        ({"ratio": (2, 1)}, "ratio is (2, 1)"),
    ],
)
def test_values_that_make_no_image(values, message):
    with pytest.raises(UserError) as error:
        Transform(**values)
    assert message in str(error.value)
