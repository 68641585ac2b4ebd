"""Places values in a static buffer, so that values that are needed at different times share its memory."""

import dataclasses
from collections.abc import Mapping, Sequence

from recu_jax.deploy.c.steps import Step
from recu_jax.deploy.graph import Node


@dataclasses.dataclass
class Span:
    """A range of `size` elements of the buffer. It is in use from the step `first` through the step `last`."""

    size: int
    first: int
    last: int


def place(spans: Sequence[Span]) -> tuple[list[int], int]:
    """Finds an offset in the buffer for each span, so that no two spans share an element during a step.

    Spans are placed from the largest to the smallest. Each span gets the lowest offset at which its elements are free
    during all its steps.

    Returns:
      The offset of each span and the size of the buffer, both in elements.
    """
    offsets: dict[int, int] = {}
    for i in sorted(range(len(spans)), key=lambda i: (-spans[i].size, spans[i].first)):
        span, offset = spans[i], 0
        taken = [(offsets[j], spans[j]) for j in offsets if spans[j].first <= span.last and span.first <= spans[j].last]
        for begin, other in sorted(taken, key=lambda pair: pair[0]):
            if offset + span.size <= begin:
                break
            offset = max(offset, begin + other.size)
        offsets[i] = offset
    total = max((offsets[i] + span.size for i, span in enumerate(spans)), default=0)
    return [offsets[i] for i in range(len(spans))], total


def plan(nodes: Sequence[Node], steps: Sequence[Step], sizes: Mapping[int, int], kind: str) -> tuple[dict, int]:
    """Finds an offset in one buffer for each stored value of one kind.

    If the last step that reads a value reads it pixel by pixel, a result of this step may overwrite the value. The
    result must have the same size. The logits get no offset.

    Args:
      nodes: the operations.
      steps: the result of `steps_of`.
      sizes: number of elements of each stored value, by the value's number.
      kind: "real" or "bits".

    Returns:
      The offset of each value, by the value's number, and the size of the buffer, both in elements.
    """
    last_read = {i: at for at, step in enumerate(steps) for i in (*step.reads, *step.by_pixel)}
    owner: dict[int, int] = {}
    spans: dict[int, Span] = {}
    for at, step in enumerate(steps):
        free = [i for i in step.by_pixel if last_read[i] == at and nodes[i].value.kind == kind]
        for value in step.stored:
            # The last value, the logits, is written to the caller's array and needs no space in the buffer.
            if nodes[value].value.kind != kind or value == len(nodes) - 1:
                continue
            last = last_read.get(value, at)
            under = next((i for i in free if sizes[i] == sizes[value]), None)
            if under is None:
                owner[value], spans[value] = value, Span(sizes[value], at, last)
            else:
                free.remove(under)
                owner[value] = owner[under]
                spans[owner[value]].last = max(last, spans[owner[value]].last)
    offsets, total = place(list(spans.values()))
    begins = dict(zip(spans, offsets, strict=True))
    return {value: begins[of] for value, of in owner.items()}, total
