"""Lists the arrays that are in memory when a compiled program of one device uses the most.

It reads the text of a scheduled program: its lines are in the order in which the device runs them. An array is alive
from the line that writes it to the last line that reads it. Arguments and results of the program are left out: the
caller holds them. Arrays within loops are left out too.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from experiments.benchmarks.compiled_program import Program, size

# These operations write no array. The result of each, except of the first two, is its operand.
_WRITE_NOTHING = ("parameter", "constant", "bitcast", "opt-barrier", "while")


def live_at_peak(program: Program) -> Counter[str]:
    """Returns the bytes of the arrays that are alive at the peak, by shape, the largest first."""
    lines = program.computations[program.entry]
    shapes, written, read = _lifetimes(lines)
    changes: Counter[int] = Counter()
    for shape, begin, end in zip(shapes, written, read, strict=True):
        changes[begin] += int(size(shape))
        changes[end + 1] -= int(size(shape))
    held = peak = at = 0
    for i in sorted(changes):
        held += changes[i]
        if held > peak:
            peak, at = held, i
    alive: Counter[str] = Counter()
    for shape, begin, end in zip(shapes, written, read, strict=True):
        if begin <= at <= end:
            alive[shape] += int(size(shape))
    return Counter(dict(alive.most_common()))


def _lifetimes(lines):
    """Returns three lists, with an entry for each array: its shape, the line that writes it, the last that reads it."""
    # By name of a result: the numbers of its arrays. A tuple is a list, and lists may be nested.
    arrays: dict[str, Any] = {}
    shapes, written, read = [], [], []

    def written_at(line, shape):
        if isinstance(shape, list):
            return [written_at(line, element) for element in shape]
        shapes.append(shape)
        written.append(line)
        read.append(line)
        return len(shapes) - 1

    for i, line in enumerate(lines):
        operands = [arrays.get(name, []) for name in line.operands]
        if line.opcode == "get-tuple-element":
            index = int(re.search(r"index=(\d+)", line.rest)[1])
            arrays[line.name] = operands[0][index] if operands[0] else []
        elif line.opcode == "tuple":
            arrays[line.name] = operands
        elif line.opcode in _WRITE_NOTHING or line.opcode.endswith("-done"):
            arrays[line.name] = operands[0] if operands else []
        else:
            for array in _flat(operands):
                read[array] = i
            arrays[line.name] = written_at(i, tree(line.shape))
    results = set(_flat(arrays[lines[-1].name]))
    kept = [i for i in range(len(shapes)) if i not in results]
    return tuple([of_all[i] for i in kept] for of_all in (shapes, written, read))


def _flat(arrays: Any) -> Iterator[int]:
    if isinstance(arrays, list):
        for element in arrays:
            yield from _flat(element)
    else:
        yield arrays


def tree(shape: str) -> Any:
    """Returns the shape of a result without layouts: a text, or a list of such shapes for a tuple."""
    plain = re.sub(r"\{[^}]*\}|/\*.*?\*/| ", "", shape)
    open_lists: list[list] = [[]]
    for token in re.findall(r"[()]|\w+\[[\d,]*\]", plain):
        if token == "(":
            open_lists.append([])
        elif token == ")":
            closed = open_lists.pop()
            open_lists[-1].append(closed)
        else:
            open_lists[-1].append(token)
    return open_lists[0][0]
