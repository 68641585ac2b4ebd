"""Damages the bytes of real files by flips, cuts, repeats, zeros and wrong lengths, drawn at random."""

import io
import zipfile
import zlib

import numpy as np

LENGTHS = (
    0,
    1,
    255,
    256,
    4096,
    65500,
    2**15,
    2**16 - 1,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    10**12,
    2**63 - 1,
    2**64 - 1,
)


def mutated(rng: np.random.Generator, samples: list[bytes]) -> bytes:
    """Returns one of `samples`, damaged one to four times. One time in twenty, most or all bytes are random instead."""
    data = bytearray(samples[rng.integers(len(samples))])
    if rng.random() < 0.05:
        start = data[: int(rng.choice([0, 0, 4, 16]))]
        return bytes(start) + rng.bytes(int(rng.integers(0, 600)))
    container = _member_of_zip if data[:4] == b"PK\x03\x04" else _with_right_sums if data[:4] == b"\x89PNG" else None
    if container is not None and rng.random() < 0.6:
        return container(rng, bytes(data), samples)
    return _damaged(rng, data, samples)


def _damaged(rng, data, samples):
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        data = _WAYS[rng.integers(len(_WAYS))](rng, data, samples)
    return bytes(data)


def _place(rng, data):
    """Returns a random position, half the time among the first bytes, where headers are."""
    return int(rng.integers(0, max(1, min(len(data), int(rng.choice([40, 700, len(data) + 1, len(data) + 1]))))))


def _flip_bits(rng, data, samples):
    for _ in range(rng.integers(1, 17)):
        if data:
            data[_place(rng, data)] ^= 1 << rng.integers(8)
    return data


def _set_bytes(rng, data, samples):
    for _ in range(rng.integers(1, 5)):
        if data:
            data[_place(rng, data)] = int(rng.choice([0, 1, 127, 128, 255, rng.integers(256)]))
    return data


def _truncate(rng, data, samples):
    return data[: _place(rng, data)]


def _range(rng, data):
    start = _place(rng, data)
    return start, start + int(rng.integers(1, rng.choice([3, 16, 300])))


def _insert(rng, data, samples):
    start, end = _range(rng, data)
    return data[:start] + rng.bytes(end - start) + data[start:]


def _duplicate(rng, data, samples):
    start, end = _range(rng, data)
    return data[:end] + data[start:]


def _zero(rng, data, samples):
    start, end = _range(rng, data)
    data[start:end] = bytes(len(data[start:end]))
    return data


def _delete(rng, data, samples):
    start, end = _range(rng, data)
    return data[:start] + data[end:]


def _length(rng, data, samples):
    """Replaces two, four or eight bytes, which may be a size, a count or an offset."""
    size = int(rng.choice([2, 4, 8]))
    value = LENGTHS[rng.integers(len(LENGTHS))] % (1 << 8 * size)
    at = _place(rng, data)
    data[at : at + size] = value.to_bytes(size, "little" if rng.random() < 0.5 else "big")
    return data


def _swap(rng, data, samples):
    """Swaps two neighboring pieces of 1, 2 or 4 bytes, which may be lengths."""
    size, at = int(rng.choice([1, 2, 4])), _place(rng, data)
    data[at : at + 2 * size] = data[at + size : at + 2 * size] + data[at : at + size]
    return data


def _splice(rng, data, samples):
    other = samples[rng.integers(len(samples))]
    return data[: _place(rng, data)] + other[_place(rng, other) :]


def _digits(rng, data, samples):
    """Replaces a digit by a number. The digit may be a part of a shape in NumPy's header, which is text."""
    places = [i for i, byte in enumerate(data[:4096]) if 48 <= byte <= 57]
    if places:
        at = places[rng.integers(len(places))]
        text = [b"0", b"9", b"-1", b"1e9", b"4294967296", b"1000000000000", b"99999999999999999999999"]
        data[at : at + 1] = text[rng.integers(len(text))]
    return data


_WAYS = (
    _flip_bits, _set_bytes, _truncate, _insert, _duplicate, _zero, _delete, _length, _swap, _splice, _digits,
)  # fmt: skip


def _member_of_zip(rng, data, samples):
    """Damages one member and corrects its checksum, so that the zip's checks pass. Now and then leaves out members."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    # Small members come first and are drawn more often: they are headers and pickles.
    names = sorted(members, key=lambda name: len(members[name]))
    name = names[min(int(rng.integers(len(names))), int(rng.integers(len(names))))]
    if rng.random() < 0.5:
        name = next((n for n in names if n.endswith("data.pkl")), name)
    others = [m for n, m in members.items() if n != name] or [b""]
    members[name] = _damaged(rng, members[name], others)
    file = io.BytesIO()
    packing = zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", packing) as zipped:
        for n, content in members.items():
            if rng.random() < 0.98:
                zipped.writestr(n, content)
    return file.getvalue()


def _with_right_sums(rng, data, samples):
    """Damages a chunk of a PNG and corrects its checksum."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + length]])
        at += 12 + length
    chunk = chunks[min(int(rng.integers(len(chunks))), int(rng.integers(len(chunks))))]
    chunk[1] = _damaged(rng, chunk[1], [c for _, c in chunks])
    return data[:8] + b"".join(
        len(c).to_bytes(4, "big") + kind + c + zlib.crc32(kind + c).to_bytes(4, "big") for kind, c in chunks
    )
