"""Decodes photographs (JPEG, PNG, WebP, BMP) to RGB arrays with OpenCV."""

import dataclasses
from collections.abc import Callable

import numpy as np

# libjpeg interpolates color between rows of blocks. So the last two rows of a partly decoded image are not exact.
_ROWS_BELOW, _BLOCK_ROWS = 2, 16
# Limits on the size that an image's header states. `_MOST_PIXELS` is Pillow's limit (512 MiB of RGB). Images above
# `_FEW_PIXELS` may have at most 1,024 pixels for each byte of the file: an 8x8 block of a JPEG takes at least one bit,
# and deflate unpacks one byte to at most about a thousand bytes.
_MOST_PIXELS, _FEW_PIXELS, _PIXELS_A_BYTE = 178_956_970, 1 << 24, 1024

JPEG, PNG, WEBP, BMP = "JPEG", "PNG", "WebP", "BMP"


class CorruptImage(ValueError):  # noqa: N818  (not "Error": with on_corrupt="skip", the run goes on)
    """Raised if the bytes are not a whole image. The message gives the reason."""


@dataclasses.dataclass(frozen=True)
class JpegHeader:
    """The parts of a JPEG's header that partial decoding needs.

    Attributes:
      height: in pixels.
      width: in pixels.
      height_at: byte offset of the height field.
      end_at: byte offset of the end-of-image marker.
      one_scan: whether one Huffman-coded scan holds all components, without restart markers.
    """

    height: int
    width: int
    height_at: int
    end_at: int
    one_scan: bool


def quiet_opencv() -> None:
    """Makes OpenCV use one thread per call and print no messages. Call it in processes that decode in parallel."""
    import cv2

    cv2.setNumThreads(0)
    set_log_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel  # OpenCV 4, 5
    set_log_level(0)


def decode(data: bytes, rows: int | None = None, reduce: int = 1) -> np.ndarray:
    """Decodes an image file. Gray, CMYK and 16-bit images are converted to RGB. An alpha channel is dropped.

    The EXIF orientation is ignored. PyTorch's loaders ignore it too, so the published accuracies do not use it.

    Args:
      data: the bytes of a whole file. The first bytes determine the format, because names can be wrong: one of
        ImageNet's `.JPEG` files is a PNG.
      rows: number of rows that the caller needs, counted from the top of the unreduced image; None for all. These rows
        are exact. Later rows may be missing.
      reduce: 1, 2, 4 or 8. The sides of a JPEG are divided by it and rounded up. Other formats keep their size.

    Returns:
      uint8 RGB, (height, width, 3).

    Raises:
      CorruptImage: the file is empty, truncated or not an image. Or the size that it states is wrong or too large.
        (OpenCV itself fills the missing part of a truncated JPEG with gray.)
    """
    import cv2

    if not data:
        raise CorruptImage("the file is empty")
    if image_kind(data) is None:
        raise CorruptImage("neither a JPEG nor a PNG, WebP or BMP")
    header = jpeg_header(data)
    stated = _checked(stated_size(data) if header is None else (header.height, header.width), len(data))
    if image_kind(data) == PNG and not png_is_whole(data):
        raise CorruptImage("truncated or damaged: a PNG without its end")
    encoded = np.frombuffer(data, np.uint8)
    if rows is not None and header is not None:
        encoded = _first_rows(data, header, rows)
    try:
        image = cv2.imdecode(encoded, _flag(reduce if header else 1) | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:  # for example, an impossible size
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
    """Reads the header of a JPEG and checks that the file is complete. Returns None for other formats.

    It reads the segments up to the first scan. This takes 6 us for a file; decoding takes 1,300 us. The check is needed
    because OpenCV fills the missing part of a truncated JPEG with gray. For other formats, OpenCV refuses the file.

    Raises:
      CorruptImage: the header is damaged, or the file is truncated.
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
            # 0xC0 and 0xC1 are baseline and extended Huffman coding. The scan must hold all components of the frame.
            one_scan = data[frame + 1] in (0xC0, 0xC1) and data[at + 4] == data[frame + 9] and not restarts
            # The data of a scan cannot contain the end marker, because only a 0 or a restart marker follows each 0xff
            # in it. The end marker of a thumbnail comes before the scan. A search takes 95 us, so the end of the file
            # is tried first.
            end = len(data) - 2 if data.endswith(b"\xff\xd9") else data.find(b"\xff\xd9", at)
            if end < 0:
                raise CorruptImage("truncated: a JPEG without its end-of-image marker")
            return JpegHeader(height, width, frame + 5, end, one_scan)
        at += 2 + length
    raise CorruptImage("truncated: a JPEG without image data")


def _first_rows(data: bytes, header: JpegHeader, rows: int) -> np.ndarray:
    """Returns a JPEG with a smaller height in its header. OpenCV then decodes little more than the first `rows` rows.

    Returns the JPEG unchanged if `one_scan` is False, or if the height would not become smaller.

    A crop needs no rows below its bottom. This saves 13% of the time for random resized crops of ImageNet (1.28 to
    1.11 ms). Zeros replace the end marker. With the marker, libjpeg would print a warning about unread data.
    """
    height = -(-(rows + _ROWS_BELOW) // _BLOCK_ROWS) * _BLOCK_ROWS
    if not header.one_scan or height >= header.height:
        return np.frombuffer(data, np.uint8)
    part = np.empty(header.end_at + 64, np.uint8)
    part[: header.end_at] = np.frombuffer(data, np.uint8, header.end_at)
    part[header.end_at :] = 0
    part[header.height_at : header.height_at + 2] = height >> 8, height & 255
    return part


def image_kind(data: bytes) -> str | None:
    """Determines the format from the first bytes: `JPEG`, `PNG`, `WEBP` or `BMP`. Returns None for anything else.

    OpenCV reads other formats too, but no data set here has them.
    """
    if data[:2] == b"\xff\xd8":
        return JPEG
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return PNG
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WEBP
    return BMP if data[:2] == b"BM" else None


def stated_size(data: bytes) -> tuple[int, int] | None:
    """Returns the height and width in the header of a PNG, WebP or BMP, or None if the header is damaged.

    For a JPEG, use `jpeg_header`.
    """
    number = _little_endian(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        if data[12:16] != b"IHDR" or len(data) < 24:
            return None
        return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
    if data[8:12] == b"WEBP":
        return _webp_size(data, number)
    if data[:2] == b"BM" and len(data) >= 26:
        if number(14, 4) == 12:  # the header of OS/2
            return number(20, 2), number(18, 2)
        # The height is negative if the rows are stored from top to bottom.
        width, height = (int.from_bytes(data[at : at + 4], "little", signed=True) for at in (18, 22))
        return abs(height), abs(width)
    return None


def png_is_whole(data: bytes) -> bool:
    """Returns whether all chunks of a PNG, up to its end chunk, lie within the file.

    OpenCV itself allocates any length that a chunk states: 2.4 GB for a damaged file of 2 KB.
    """
    at = 8
    while at + 12 <= len(data):
        length, kind_of_chunk = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        at += 12 + length
        if kind_of_chunk == b"IEND":
            return at <= len(data)
    return False


def _little_endian(data: bytes) -> Callable[[int, int], int]:
    return lambda at, length: int.from_bytes(data[at : at + length], "little")


def _webp_size(data, number):
    if data[12:16] == b"VP8X" and len(data) >= 30:
        return number(27, 3) + 1, number(24, 3) + 1
    if data[12:16] == b"VP8L" and len(data) >= 25:
        bits = number(21, 4)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if data[12:16] == b"VP8 " and len(data) >= 30:
        return number(28, 2) & 0x3FFF, number(26, 2) & 0x3FFF
    return None
