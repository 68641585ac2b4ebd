"""Kind and size of an encoded image as its first bytes state them: asked before memory is given to its pixels."""

from collections.abc import Callable

JPEG, PNG, WEBP, BMP = "JPEG", "PNG", "WebP", "BMP"


def kind(data: bytes) -> str | None:
    """`JPEG`, `PNG`, `WEBP` or `BMP`; None for anything else. OpenCV reads more kinds, which no data set here has."""
    if data[:2] == b"\xff\xd8":
        return JPEG
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return PNG
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WEBP
    return BMP if data[:2] == b"BM" else None


def stated_size(data: bytes) -> tuple[int, int] | None:
    """Height and width that a PNG, WebP or BMP states; None where its first chunk is not what it must be.

    Of a JPEG see `images.jpeg_header`, which walks to where the size is.
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
        # Signed: rows from the top have a negative height.
        width, height = (int.from_bytes(data[at : at + 4], "little", signed=True) for at in (18, 22))
        return abs(height), abs(width)
    return None


def png_is_whole(data: bytes) -> bool:
    """Whether every chunk of a PNG ends within it, up to the one that is its end.

    OpenCV makes room for what a chunk states to be long: 2.4 GB for a damaged file of 2 KB.
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
