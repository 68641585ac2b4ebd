"""Reads the text of a program that XLA compiled: kernels, bytes, collectives and convolutions."""

import dataclasses
import math
import re
from collections import Counter

_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "token": 0, "opaque": 0}
# Dtype, axes and layout. The layout of an array on a TPU names its memory: S(1) is VMEM, beside the compute units.
_SHAPE = re.compile(r"\b(pred|token|opaque|bf16|f8\w*|[sufc]\d+)\[([\d,]*)\](?:\{([^}]*)\})?")
_BESIDE = "S(1)"
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_NAMES = re.compile(r"%([\w.\-]+)")
# These operations start no kernel: the host or the compiler handles them, or they wait for another operation.
_NO_KERNEL = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "partition-id",
    "replica-id", "while", "call", "conditional",
}  # fmt: skip
# Operations that exchange data with the host, and the layout of an array in the host's memory.
_TRANSFERS, _ON_HOST = ("infeed", "outfeed", "send", "recv"), "S(5)"
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# Operations that start a copy, and do not wait for its end.
_COPIES = ("copy-start", "slice-start")
# Operations that read only a part of their first operand.
_PARTIAL = ("gather", "dynamic-slice", "slice")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of the program.

    Attributes:
      name: name of the result.
      shape: shape of the result, as text.
      opcode: name of the operation.
      operands: names of the operands.
      rest: text of the line, from the operands to its end.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str


class Program:
    """A compiled program, as its computations by name."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        current: list[Instruction] = []
        for line in text.splitlines():
            if head := _HEAD.match(line):
                self.computations[head[1]] = current = []
                self.entry = head[1] if line.startswith("ENTRY") else self.entry
            elif found := _LINE.match(line):
                current.append(_instruction(*found.groups()))

    def kernels(self) -> list[Instruction]:
        """Lists the operations that the device starts, in order.

        The operations of a loop are listed once per iteration if XLA knows how many iterations there are, else once.
        """
        return list(self._run(self.entry))

    def _run(self, name):
        for line in self.computations[name]:
            if line.opcode in ("call", "while", "conditional"):
                for inner in re.findall(r"(?:to_apply|body|calls|true_computation)=%([\w.\-]+)", line.rest):
                    trips = re.search(r'known_trip_count":\{"n":"(\d+)"', line.rest)
                    for _ in range(int(trips[1]) if trips and line.opcode == "while" else 1):
                        yield from self._run(inner)
            elif line.opcode not in _NO_KERNEL and not line.opcode.endswith("-done"):
                yield line

    def bytes_moved(self) -> int:
        """Returns the bytes that all kernels read from and write to the main memory of the device.

        If a fused kernel only gathers from an operand or slices it, only the part that the kernel reads counts. Arrays
        that a TPU keeps in the memory beside its compute units do not count.
        """
        shapes = {line.name: line.shape for lines in self.computations.values() for line in lines}
        total = 0.0
        for line in self.kernels():
            if line.opcode in _COPIES:
                total += _copied(line.shape)
                continue
            total += size(line.shape, main_memory_only=True)
            inner = self._body(line)
            for position, operand in enumerate(line.operands):
                total += min(size(shapes.get(operand, ""), main_memory_only=True), _read(inner, position))
        return int(total)

    def _body(self, line):
        calls = re.search(r"calls=%([\w.\-]+)", line.rest)
        return self.computations.get(calls[1], []) if calls else []

    def collectives(self) -> dict[str, dict[str, int]]:
        """Returns the number of collectives and the bytes of their results, by kind."""
        found: dict[str, Counter] = {}
        for line in self.kernels():
            kind = line.opcode.removesuffix("-start")
            if kind in _COLLECTIVES:
                found.setdefault(kind, Counter()).update(count=1, bytes=int(size(line.shape)))
        return {kind: dict(counted) for kind, counted in found.items()}

    def dtypes(self) -> list[str]:
        """Lists the dtypes of all results, fused ones included."""
        lines = (line for lines in self.computations.values() for line in lines)
        return sorted({dtype for line in lines for dtype, _, _ in _SHAPE.findall(line.shape)})

    def transfers(self) -> int:
        """Returns the number of operations that exchange data with the host."""
        return sum(line.opcode in _TRANSFERS or _ON_HOST in line.shape for line in self.kernels())

    def convolutions(self) -> dict[str, int]:
        """Returns the number of convolutions, fused ones included, by the dtype of their first operand."""
        found: Counter = Counter()
        for lines in self.computations.values():
            shapes = {line.name: line.shape for line in lines}
            for line in lines:
                cudnn = line.opcode == "custom-call" and '"__cudnn$conv' in line.rest
                if (line.opcode == "convolution" or cudnn) and line.operands:
                    found[_SHAPE.search(shapes[line.operands[0]])[1]] += 1
        return dict(found)


def size(shape: str, main_memory_only: bool = False) -> float:
    """Returns the total number of bytes of the arrays in `shape`.

    Args:
      shape: an array's shape or a tuple of shapes, as in the text of a program.
      main_memory_only: leave out the arrays in the memory beside a TPU's compute units.
    """
    return sum(n for n, beside in _arrays(shape) if not (beside and main_memory_only))


def _arrays(shape):
    """Yields the bytes of each array of a shape, and whether the array lies beside the compute units."""
    for dtype, axes, layout in _SHAPE.findall(shape):
        each = _BYTES.get(dtype) or (0 if dtype in _BYTES else 1 if dtype.startswith("f8") else int(dtype[1:]) / 8)
        yield each * math.prod(int(n) for n in axes.split(",") if n), _BESIDE in layout


def _copied(shape):
    """Returns the bytes that an asynchronous copy or slice reads from and writes to main memory.

    The first two arrays in its shape are its source and its destination, in either order.
    """
    ends = list(_arrays(shape))[:2]
    return min(n for n, _ in ends) * sum(not beside for _, beside in ends)


def _read(body, position):
    """Returns the most bytes that a fused computation reads of its parameter `position`; inf if it may read all."""
    parameter = next((line for line in body if line.opcode == "parameter" and f"({position})" in line.rest), None)
    users = [line for line in body if parameter and parameter.name in line.operands]
    partial = users and all(u.opcode in _PARTIAL and u.operands[0] == parameter.name for u in users)
    return sum(size(u.shape) for u in users) if partial else math.inf


def _closed(text, start):
    """Returns the index after the bracket that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] in "([{") - (text[i] in ")]}")
        if depth == 0:
            return i + 1
    return len(text)


def _instruction(name, text):
    end = _closed(text, 0) if text.startswith("(") else text.index(" ")
    shape, text = text[:end], text[end:].lstrip()
    opcode, _, rest = text.partition("(")
    stop = _closed(f"({rest}", 0) - 1
    return Instruction(name, shape, opcode, tuple(_NAMES.findall(rest[:stop])), f"({rest}")
