"""Tests reading the messages of ImageNet's records, byte by byte."""

from recu_jax.data.array_records import example_fields


def test_example_fields_of_both_encodings_of_lists():
    def field(number, content):
        return bytes([number << 3 | 2, len(content)]) + content

    def feature(name, kind, values):
        return field(1, field(1, name) + field(2, field(kind, values)))

    packed, alone = field(1, b"\x96\x01\x05"), b"\x08\x96\x01"
    features = [feature(b"p", 3, packed), feature(b"a", 3, alone), feature(b"f", 2, field(1, b"1234"))]
    features += [feature(b"b", 1, field(1, b"bytes")), feature(b"empty", 3, b""), feature(b"zero", 3, field(1, b"\0"))]
    assert dict(example_fields(field(1, b"".join(features)))) == {"p": 150, "a": 150, "b": b"bytes", "zero": 0}
