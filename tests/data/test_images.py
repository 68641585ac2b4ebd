"""Compares decoding with Pillow, and tests incomplete files."""

import io
import itertools

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from recu_jax.data.images import CorruptImage, decode
from recu_jax.data.transform import Transform


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(load_sample_image("china.jpg")[:203, :301])


def encoded(image, format="JPEG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def by_pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.mark.parametrize(
    "options",
    [{}, {"quality": 30}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"restart_marker_rows": 2}],
    ids=str,
)
def test_jpeg_is_what_pillow_decodes(photo, options):
    data = encoded(photo, **options)
    image = decode(data)
    assert image.shape == (203, 301, 3) and image.dtype == np.uint8
    assert np.abs(image - by_pillow(data)).max() <= 2


@pytest.mark.parametrize(
    "format,mode",
    [("JPEG", "L"), ("JPEG", "CMYK"), *itertools.product(["PNG", "WEBP"], ["L", "LA", "P", "RGBA"])],
)
def test_other_colours_are_what_pillow_converts(photo, format, mode):
    data = encoded(photo.convert(mode), format, **({"lossless": True} if format == "WEBP" else {}))
    # CMYK to RGB is (255 - ink) (255 - black) / 255, which OpenCV and Pillow round differently.
    assert np.abs(decode(data) - by_pillow(data)).max() <= 2


def test_png_of_16_bits(photo):
    sixteen = np.asarray(photo).astype(np.uint16) * 257
    data = cv2.imencode(".png", sixteen[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode(data), np.asarray(photo))


def test_exif_orientation_is_ignored(photo):
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to show it"
    np.testing.assert_array_equal(decode(encoded(photo, exif=exif)), decode(encoded(photo)))


@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"progressive": True}, {"restart_marker_rows": 2}], ids=str
)
def test_rows_above_a_crops_bottom_are_those_of_the_whole_image(photo, options, capfd):
    data = encoded(photo, **options)
    whole = decode(data)
    heights = set()
    for rows in range(1, 204):
        part = decode(data, rows=rows)
        np.testing.assert_array_equal(part[:rows], whole[:rows])
        heights.add(len(part))
    assert min(heights) == (203 if options.keys() & {"progressive", "restart_marker_rows"} else 16)
    assert capfd.readouterr().err == ""  # libjpeg would warn of data that is left over


@pytest.mark.parametrize("reduce", [2, 4, 8])
def test_reduced(photo, reduce):
    data = encoded(photo)
    image = decode(data, reduce=reduce)
    by_pillow = Image.open(io.BytesIO(data))
    by_pillow.draft("RGB", (301 // reduce, 203 // reduce))
    assert image.shape == (-(-203 // reduce), -(-301 // reduce), 3)
    assert np.abs(image - np.asarray(by_pillow).astype(int)).max() <= 2
    np.testing.assert_array_equal(decode(data, rows=100, reduce=reduce)[: 100 // reduce], image[: 100 // reduce])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("keep", [0.01, 0.5, 0.9, 0.999])
def test_truncated(photo, format, keep):
    data = encoded(photo, format)
    with pytest.raises(CorruptImage):
        decode(data[: int(keep * len(data))])


def test_truncated_behind_a_whole_thumbnail(photo):
    exif = b"Exif\0\0" + encoded(photo.resize((32, 32)))
    data = encoded(photo, exif=exif)
    assert decode(data).shape == (203, 301, 3)
    with pytest.raises(CorruptImage, match="end-of-image"):
        decode(data[:-500])


@pytest.mark.parametrize(
    "data,reason",
    [
        (b"", "empty"),
        (b"\xff\xd8", "without image data"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "without image data"),
        (b"\xff\xd8\0\0\0\0", "damaged"),
        (b"not an image at all", "neither a JPEG nor a PNG"),
        (b"\xff\xd8\xff\xd9", "without image data"),
    ],
)
def test_no_image(data, reason):
    with pytest.raises(CorruptImage, match=reason):
        decode(data)


def test_bytes_after_the_end_do_no_harm(photo):
    data = encoded(photo)
    np.testing.assert_array_equal(decode(data + b"\0" * 1000), decode(data))
    np.testing.assert_array_equal(decode(data + b"appended", rows=50)[:50], decode(data)[:50])


def test_damaged_bytes_are_an_image_or_corrupt_and_nothing_else(photo):
    r = np.random.default_rng(0)
    small = photo.resize((60, 40))
    outcomes = []
    for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}):
        data = encoded(small, **options)
        for _ in range(150):
            damaged = bytearray(data)
            for place in r.integers(2, r.choice([30, 650, len(data)]), 3):
                damaged[place] = r.choice([0, 1, 255, r.integers(256)])
            try:
                image = Transform(16, eval_resize=16).train(bytes(damaged), r)
                outcomes.append(image.shape == (16, 16, 3))
            except CorruptImage:
                outcomes.append(None)
    assert True in outcomes and None in outcomes and False not in outcomes


def test_a_jpeg_without_a_size(photo):
    data = bytearray(encoded(photo))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 7] = 0, 0
    with pytest.raises(CorruptImage, match="no size"):
        decode(bytes(data))
