"""Encoded images in the array_record files that TFDS writes, read without TFDS or TensorFlow.

TFDS is asked once, in the main process, which files a split has. Worker processes read them alone: importing TFDS
would cost each of them 0.7 s and 50 MB.
"""

import bisect
import itertools
from collections.abc import Iterator

from recu_jax.errors import UserError

_OPEN_BESIDE = 256  # files and sockets of the rest of a process


class ArrayRecords:
    """Records of one split of a TFDS data set with the features `image` and `label`; random access, picklable.

    Args:
      split: TFDS's name of it, for error messages.
      shards: (path, first record, number of records) of each file.
    """

    def __init__(self, split: str, shards: list[tuple[str, int, int]]):
        self._split = split
        self._shards = shards
        self._ends = list(itertools.accumulate(n for _, _, n in shards))
        self._readers = {}

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, i: int) -> tuple[bytes, int]:
        """The encoded image and its class."""
        fields = dict(example_fields(self._record(i)))
        return fields["image"], fields["label"]

    def name(self, i: int) -> str:
        """`train image 17 (n01440764_10026.JPEG)`."""
        file_name = dict(example_fields(self._record(i))).get("file_name", b"no file name").decode(errors="replace")
        return f"{self._split} image {i} ({file_name})"

    def __getstate__(self):
        return self.__dict__ | {"_readers": {}}  # open files stay where they are

    def _record(self, i):
        shard = bisect.bisect_right(self._ends, i)
        path, first, n = self._shards[shard]
        return self._reader(path).read([first + i - (self._ends[shard] - n)])[0]

    def _reader(self, path):
        if path not in self._readers:
            from array_record.python.array_record_module import ArrayRecordReader

            if not self._readers:
                _allow_open_files(len(self._shards) + _OPEN_BESIDE)
            # Random access: reading ahead would be for nothing.
            options = {"options": "readahead_buffer_size:0", "file_reader_buffer_size": 32768}
            self._readers.setdefault(path, ArrayRecordReader(path, **options))
        return self._readers[path]


def from_builder(builder, split: str) -> ArrayRecords:
    """The records of `split` of a prepared TFDS builder.

    Raises:
      UserError: the data set has no such split.
    """
    if split not in builder.info.splits:
        raise UserError(
            f"{builder.data_path} has no split {split!r}, only {', '.join(builder.info.splits)}; prepare it again"
        )
    files = builder.info.splits[split].file_instructions
    return ArrayRecords(split, [(str(f.filename), f.skip, f.take) for f in files])


def example_fields(example: bytes) -> Iterator[tuple[str, bytes | int]]:
    """Name and first value of the features of a serialised `tf.train.Example`; features of floats are left out.

    The message is `Example { Features features = 1 }`, `Features { map<string, Feature> feature = 1 }`,
    `Feature { BytesList bytes_list = 1; Int64List int64_list = 3 }`, each list `{ repeated value = 1 }`.
    """
    for _, features in _fields(memoryview(example)):
        for _, entry in _fields(features):
            key_and_feature = dict(_fields(entry))
            for kind, values in _fields(key_and_feature.get(2, memoryview(b""))):
                value = next((v for _, v in _fields(values)), None)
                if kind == 2 or value is None:
                    continue
                if kind == 3 and not isinstance(value, int):  # packed
                    value = _varint(value, 0)[0]
                yield bytes(key_and_feature[1]).decode(), bytes(value) if kind == 1 else value


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Number and value of each field of a protocol buffer message that holds varints and lengths only."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 0:
            value, at = _varint(message, at)
        elif key & 7 == 2:
            length, at = _varint(message, at)
            value, at = message[at : at + length], at + length
        else:
            raise ValueError(f"wire type {key & 7} in a tf.train.Example")
        yield key >> 3, value


def _varint(message, at) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _allow_open_files(n: int) -> None:
    """ImageNet has 1,024 training files, and as many open files is all that many systems allow unless asked."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = n if hard == resource.RLIM_INFINITY else min(n, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
