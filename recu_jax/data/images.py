"""Encoded photographs to RGB arrays, by OpenCV: JPEG, PNG, WebP, BMP."""

import dataclasses

import numpy as np

from recu_jax.data import image_sizes

# libjpeg interpolates colour between rows of blocks: a row is final two rows before the last one it has.
_ROWS_BELOW, _BLOCK_ROWS = 2, 16
# The most pixels of an image, as in Pillow: 512 MiB. And, of more than a few,
# how many a byte can stand for: an 8x8 block of a JPEG takes a bit at least, deflate makes a thousand bytes of one.
_MOST_PIXELS, _FEW_PIXELS, _PIXELS_A_BYTE = 178_956_970, 1 << 24, 1024


class CorruptImage(ValueError):  # noqa: N818  (a state of the data, which `skip` passes over)
    """Bytes that are no whole image; the message is the reason."""


@dataclasses.dataclass(frozen=True)
class JpegHeader:
    """Where a JPEG file keeps what decoding a part of it needs; sizes in pixels, places in bytes."""

    height: int
    width: int
    height_at: int
    end_at: int
    one_scan: bool


def quiet_opencv() -> None:
    """One thread a call and no messages, for a process whose calls already run side by side."""
    import cv2

    cv2.setNumThreads(0)
    set_log_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel  # 4, 5
    set_log_level(0)


def decode(data: bytes, rows: int | None = None, reduce: int = 1) -> np.ndarray:
    """The image in `data` as uint8 RGB, (height, width, 3); grey, CMYK and 16-bit images are converted, alpha dropped.

    The orientation that EXIF states is ignored, as PyTorch's loaders ignore it: the published accuracies are without.

    Args:
      data: a whole file; what it is its first bytes say, not its name (one of ImageNet's `.JPEG` files is a PNG).
      rows: with a number, rows after the first `rows` may be missing from the result; those it has are the same.
      reduce: 1, 2, 4 or 8: a JPEG is decoded to sides this many times smaller, rounded up; other formats in full.

    Raises:
      CorruptImage: empty, truncated, not an image, or one that states a size that its bytes cannot hold. OpenCV alone
        fills what a truncated JPEG lacks with grey.
    """
    import cv2

    if not data:
        raise CorruptImage("the file is empty")
    if image_sizes.kind(data) is None:
        raise CorruptImage("neither a JPEG nor a PNG, WebP or BMP")
    header = jpeg_header(data)
    stated = _checked(image_sizes.stated_size(data) if header is None else (header.height, header.width), len(data))
    if image_sizes.kind(data) == image_sizes.PNG and not image_sizes.png_is_whole(data):
        raise CorruptImage("truncated or damaged: a PNG without its end")
    encoded = np.frombuffer(data, np.uint8)
    if rows is not None and header is not None:
        encoded = _first_rows(data, header, rows)
    try:
        image = cv2.imdecode(encoded, _flag(reduce if header else 1) | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:  # sizes that cannot be, for one
        raise CorruptImage(f"OpenCV: {error.err}") from error
    if image is None:
        raise CorruptImage("OpenCV does not decode it")
    if image.shape[1] != -(-stated[1] // (reduce if header else 1)):
        raise CorruptImage(f"states a width of {stated[1]} pixels and decodes to another")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if header and reduce > 1 else image


def _checked(stated: tuple[int, int] | None, nbytes: int) -> tuple[int, int]:
    if stated is None or not min(stated):
        raise CorruptImage("states no size")
    pixels = stated[0] * stated[1]
    if pixels > _MOST_PIXELS or pixels > max(_FEW_PIXELS, nbytes * _PIXELS_A_BYTE):
        raise CorruptImage(
            f"states {stated[0]}x{stated[1]} pixels, more than its {nbytes} bytes can hold or memory should"
        )
    return stated


def _flag(reduce):
    import cv2

    return {
        1: cv2.IMREAD_COLOR_RGB,
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    }[reduce]


def jpeg_header(data: bytes) -> JpegHeader | None:
    """The header of a whole JPEG; None for other formats, of which OpenCV itself decodes nothing if they are truncated.

    Walks the segments up to the first scan: 6 us a file, where decoding takes 1,300.

    Raises:
      CorruptImage: the file ends too early.
    """
    if data[:2] != b"\xff\xd8":
        return None
    at, frame, restarts = 2, None, False
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise CorruptImage("a JPEG whose header is damaged")
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xFF:  # padding
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = at
        elif marker == 0xDD:
            restarts = data[at + 4 : at + 6] != b"\0\0"
        elif marker == 0xDA:
            if frame is None or frame + 10 > len(data):
                break
            height, width = (int.from_bytes(data[frame + i : frame + i + 2], "big") for i in (5, 7))
            if not height or not width:
                raise CorruptImage("a JPEG that states no size")
            # Baseline or extended Huffman coding, all components in the one scan.
            one_scan = data[frame + 1] in (0xC0, 0xC1) and data[at + 4] == data[frame + 9] and not restarts
            # Within the scan 0xff is followed by 0, so that the first one is the end; a thumbnail's comes before the
            # scan. Looking for it takes 95 us, hence first the place where it nearly always is.
            end = len(data) - 2 if data.endswith(b"\xff\xd9") else data.find(b"\xff\xd9", at)
            if end < 0:
                raise CorruptImage("truncated: a JPEG without its end-of-image marker")
            return JpegHeader(height, width, frame + 5, end, one_scan)
        at += 2 + length
    raise CorruptImage("truncated: a JPEG without image data")


def _first_rows(data: bytes, header: JpegHeader, rows: int) -> np.ndarray:
    """The JPEG made to say that it is only so high that its first `rows` rows are those of the whole image.

    A crop needs nothing below its bottom, and most of the time goes into decoding row after row: 13% less of it for
    random resized crops of ImageNet (1.28 to 1.11 ms). libjpeg complains on stderr about data left over where an end
    marker follows it, hence zeros there, which it reads to the end in silence.
    """
    height = -(-(rows + _ROWS_BELOW) // _BLOCK_ROWS) * _BLOCK_ROWS
    if not header.one_scan or height >= header.height:
        return np.frombuffer(data, np.uint8)
    part = np.empty(header.end_at + 64, np.uint8)
    part[: header.end_at] = np.frombuffer(data, np.uint8, header.end_at)
    part[header.end_at :] = 0
    part[header.height_at : header.height_at + 2] = height >> 8, height & 255
    return part
