"""Reads encoded images from the array_record files that TFDS writes. TensorFlow is not needed.

The main process asks TFDS once for the files of a split. Worker processes read the files without TFDS, because its
import would cost each worker 0.7 s and 50 MB.
"""

import bisect
import itertools
import os
from collections.abc import Iterator
from typing import Any

from recu_jax.data.images import CorruptImage
from recu_jax.errors import UserError, one_line

_OPEN_BESIDE = 256  # open files and sockets that the process may need for other purposes
_VARINT_BYTES = 10  # a varint of 64 bits takes at most 10 bytes


class ArrayRecords:
    """The records of one split of a TFDS data set with the features `image` and `label`.

    The records can be read in any order. The object is picklable.

    Args:
      split: TFDS's name of the split, for error messages.
      shards: (path, index of the first record within the file, number of records) of each file.
      num_classes: labels must be smaller than this; None allows any label.
    """

    def __init__(self, split: str, shards: list[tuple[str, int, int]], num_classes: int | None = None):
        self._split = split
        self._num_classes = num_classes
        self._shards = shards
        self._ends = list(itertools.accumulate(n for _, _, n in shards))
        self._readers: dict[str, Any] = {}

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, i: int) -> tuple[bytes, int]:
        """Returns the encoded image `i` and its class.

        Raises:
          CorruptImage: the record cannot be read, it has no image or no class, or the class is not below `num_classes`.
        """
        return self._image_and_label(self._record(i))

    def read_range(self, start: int, stop: int) -> list[tuple[bytes, int]]:
        """Reads the records [start, stop), as `read` does, with one call of the reader per file."""
        records = []
        while start < stop:
            path, number = self._place(start)
            n = min(stop, self._ends[bisect.bisect_right(self._ends, start)]) - start
            records += self._raw(path, list(range(number, number + n)))
            start += n
        return [self._image_and_label(record) for record in records]

    def _image_and_label(self, record):
        fields = dict(example_fields(record))
        image, label = fields.get("image"), fields.get("label")
        if not isinstance(image, bytes) or not isinstance(label, int):
            raise CorruptImage("a record without an image and a label")
        if self._num_classes is not None and label >= self._num_classes:
            raise CorruptImage(f"a record with the label {label}; classes are 0 to {self._num_classes - 1}")
        return image, label

    def name(self, i: int) -> str:
        """Names image `i` for messages: `train image 17 (n01440764_10026.JPEG)`.

        For a damaged record the name in parentheses is the path of the array_record file.
        """
        try:
            file_name = dict(example_fields(self._record(i))).get("file_name", b"no file name")
            what = file_name.decode(errors="replace") if isinstance(file_name, bytes) else "no file name"
        except CorruptImage:
            what = self._place(i)[0]
        return f"{self._split} image {i} ({' '.join(what.split())})"

    def __getstate__(self):
        return self.__dict__ | {"_readers": {}}  # open readers cannot be pickled

    def _place(self, i):
        shard = bisect.bisect_right(self._ends, i)
        path, first, n = self._shards[shard]
        return path, first + i - (self._ends[shard] - n)

    def _record(self, i):
        path, number = self._place(i)
        return self._raw(path, [number])[0]

    def _raw(self, path, numbers):
        try:
            records = self._reader(path).read(numbers)
        except Exception as error:  # the reader raises many types of errors for damaged bytes
            raise CorruptImage(f"record {numbers[0]} of {path} cannot be read: {one_line(error, 200)}") from error
        if len(records) != len(numbers) or not all(isinstance(r, bytes) for r in records):
            raise CorruptImage(f"record {numbers[0]} of {path} cannot be read: the file is damaged")
        return records

    def _reader(self, path):
        if path not in self._readers:
            from array_record.python.array_record_module import ArrayRecordReader

            if not self._readers:
                _allow_open_files(len(self._shards) + _OPEN_BESIDE)
            # Records are read in random order, so data read ahead would not be used.
            options = {"options": "readahead_buffer_size:0", "file_reader_buffer_size": 32768}
            self._readers.setdefault(path, ArrayRecordReader(path, **options))
        return self._readers[path]


def from_builder(builder: Any, split: str) -> ArrayRecords:
    """Returns the records of `split` of a prepared TFDS builder.

    Raises:
      UserError: the split is unknown or empty, its description is damaged, or one of its files is missing.
    """
    if split not in builder.info.splits:
        raise UserError(
            f"{builder.data_path} has no split {split!r}, only {', '.join(builder.info.splits)}; prepare it again"
        )
    try:
        files = builder.info.splits[split].file_instructions
        num_classes = builder.info.features["label"].num_classes
    except Exception as error:  # TFDS reads its description only now and may find it damaged
        raise UserError(
            f"the description of split {split!r} in {builder.data_path} is damaged: {one_line(error, 300)}"
        ) from error
    missing = [str(f.filename) for f in files if not os.path.isfile(f.filename)]
    if missing:
        raise UserError(
            f"{missing[0]} is not there ({len(missing)} of {len(files)} files of split {split!r}); copy it there, or "
            "prepare the data set again"
        )
    if not files:
        raise UserError(f"split {split!r} of {builder.data_path} holds no records; prepare it again")
    return ArrayRecords(split, [(str(f.filename), f.skip, f.take) for f in files], num_classes)


def example_fields(example: bytes) -> Iterator[tuple[str, bytes | int]]:
    """Yields name and first value of each feature of a serialized `tf.train.Example`.

    Skips features of floats and features without a value.

    The protocol buffer messages are `Example { Features features = 1 }`,
    `Features { map<string, Feature> feature = 1 }` and
    `Feature { BytesList bytes_list = 1; Int64List int64_list = 3 }`. Each list is `{ repeated value = 1 }`.

    Raises:
      CorruptImage: the bytes are not a `tf.train.Example`.
    """
    for _, features in _messages(memoryview(example)):
        for _, entry in _messages(features):
            key_and_feature = dict(_messages(entry))
            name = _text(key_and_feature.get(1, b""))
            for kind, values in _messages(key_and_feature.get(2, memoryview(b""))):
                value: memoryview | int | None = next((v for _, v in _fields(values)), None) if kind in (1, 3) else None
                if value is None:
                    continue
                if kind == 3 and not isinstance(value, int):  # a packed list: all its integers are in one field
                    value = _varint(value, 0)[0]
                if kind == 1 and isinstance(value, int):
                    raise CorruptImage(f"a number for the bytes {name!r} in a tf.train.Example")
                yield name, value if isinstance(value, int) else bytes(value)


def _text(name):
    try:
        return bytes(name).decode()
    except UnicodeDecodeError as error:
        raise CorruptImage("a feature's name that is no text in a tf.train.Example") from error


def _messages(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yields number and value of each field of a message that holds no integers. Raises CorruptImage at an integer."""
    for number, value in _fields(message):
        if isinstance(value, int):
            raise CorruptImage(f"a number for field {number} of a tf.train.Example")
        yield number, value


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yields number and value of each field of a protocol buffer message.

    A value is a varint, a length-delimited field or 4 bytes.
    """
    at = 0
    value: memoryview | int
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 0:
            value, at = _varint(message, at)
        elif key & 7 == 2:
            length, at = _varint(message, at)
            value, at = message[at : at + length], at + length
            if at > len(message):
                raise CorruptImage("truncated: a tf.train.Example whose field ends after it")
        elif key & 7 == 5 and at + 4 <= len(message):  # a float that is not packed
            value, at = message[at : at + 4], at + 4
        else:
            raise CorruptImage(f"wire type {key & 7} in a tf.train.Example")
        yield key >> 3, value


def _varint(message, at) -> tuple[int, int]:
    value = 0
    for i, byte in enumerate(message[at : at + _VARINT_BYTES]):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value & (1 << 64) - 1, at + i + 1
    raise CorruptImage("a number without an end in a tf.train.Example")


def _allow_open_files(n: int) -> None:
    """Raises the process's soft limit of open files to `n`, or to the hard limit if that is lower.

    ImageNet has 1,024 training files. Many systems allow only 1,024 open files by default.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = n if hard == resource.RLIM_INFINITY else min(n, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
