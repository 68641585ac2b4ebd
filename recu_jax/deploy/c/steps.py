"""Groups the operations of a network into steps for C. A step is a loop over the pixels of one output.

For each pixel, the first operation of a step computes all channels. The operations after it work on these channels
before the next pixel is begun. So only a few values are stored as a whole: those that a later step reads.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from recu_jax.deploy.graph import Node
from recu_jax.errors import UserError

# Operations that compute a pixel of the output from the same pixel of each input.
_BY_PIXEL = {
    "batch_norm", "hard_tanh", "relu", "prelu", "shift", "add", "pad_channels", "sign", "scale", "affine", "threshold",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Step:
    """Operations that C computes together, in one loop over the pixels of an output.

    Attributes:
      operations: numbers of the operations, in the order of computation.
      loaded: number of the stored value that the first operation reads pixel by pixel. None if the first operation
        reads windows, a whole value, or the image.
      reads: numbers of the stored values that the first operation reads by windows or as a whole.
      others: for each `add`, the number of the stored value that it adds; None if it adds its input to itself.
      shifts: for each `sign` of a shifted value, the number of the `shift`. One C function computes both operations.
      stored: numbers of the operations whose results are stored.
    """

    operations: tuple[int, ...]
    loaded: int | None
    reads: tuple[int, ...]
    others: Mapping[int, int | None]
    shifts: Mapping[int, int]
    stored: tuple[int, ...]

    @property
    def by_pixel(self) -> tuple[int, ...]:
        """Numbers of the stored values that the loop reads only at the pixel that it computes."""
        found = [] if self.loaded is None else [self.loaded]
        return tuple(i for i in (*found, *self.others.values()) if i is not None and i not in self.reads)


def source_of(nodes: Sequence[Node], number: int) -> int:
    """Returns the number of the stored value that holds the elements of a value.

    `flatten` changes only the shape, so its output has the same elements as its input.
    """
    while nodes[number].op == "flatten":
        (number,) = nodes[number].inputs
    return number


def reads_image(nodes: Sequence[Node], number: int) -> bool:
    """Tells whether an operation is a convolution of the image.

    The convolution normalizes the image's bytes as it reads them, so no normalized image is stored.
    """
    return nodes[number].op == "conv" and nodes[number].inputs == (0,)


def steps_of(nodes: Sequence[Node]) -> list[Step]:
    """Groups operations into steps, in the order of their computation.

    Raises:
      UserError: no operation, or more than one, takes the sums of a binary convolution.
    """
    users: list[list[int]] = [[] for _ in nodes]
    for number, node in enumerate(nodes):
        for i in node.inputs:
            users[source_of(nodes, i)].append(number)
    done = {number for number, node in enumerate(nodes) if node.op == "flatten"}
    if all(reads_image(nodes, i) for i in users[0]):
        done.add(0)
    steps: list[Step] = []
    available: set[int] = set()
    for number in range(len(nodes)):
        if number not in done:
            step = _step(number, nodes, users, available)
            done.update(step.operations, step.shifts.values())
            available.update(step.stored)
            steps.append(step)
    return steps


def _step(number, nodes, users, available) -> Step:
    node = nodes[number]
    inputs = () if reads_image(nodes, number) else tuple(source_of(nodes, i) for i in node.inputs)
    by_pixel = node.op in _BY_PIXEL
    operations, stored = [number], []
    shifts: dict[int, int] = {}
    others: dict[int, int | None] = {}
    if node.op == "add":
        others[number] = inputs[1] if inputs[1] != inputs[0] else None
    last, is_needed = number, True
    while nodes[last].value.kind != "bits":
        signs, rest = _signs(last, nodes, users)
        shifts |= {sign: shift for sign, shift in signs.items() if shift != sign}
        operations += signs
        stored += signs
        following = rest[0] if len(rest) == 1 else None
        if following is None or not _can_follow(following, last, nodes, available):
            is_needed = bool(rest) or not signs
            break
        if nodes[following].op == "add":
            others[following] = next(source_of(nodes, i) for i in nodes[following].inputs if i != last)
        operations.append(following)
        last = following
    if is_needed:
        stored.append(last)
    if any(nodes[i].value.kind == "sums" for i in stored):
        raise UserError(f"operation {last} ({nodes[last].op}): C takes the sums of a binary convolution once")
    loaded, reads = (inputs[0], ()) if by_pixel else (None, inputs)
    return Step(tuple(operations), loaded, reads, others, shifts, tuple(stored))


def _signs(number, nodes, users):
    """Finds the operations that use a value, and separates those that lead to a sign.

    Returns:
      A dict that maps each `sign` to the `shift` before it, or to itself if there is no shift; and the other operations
      that use the value.
    """
    signs, rest = {}, []
    for user in users[number]:
        end = users[user][0] if nodes[user].op == "shift" and len(users[user]) == 1 else user
        if nodes[end].op == "sign" and nodes[user].inputs == (number,):
            signs[end] = user
        else:
            rest.append(user)
    return signs, rest


def _can_follow(following, last, nodes, available):
    """Tells whether the operation `following` can be in the same step as `last`, whose output it uses.

    It can if it works pixel by pixel and earlier steps stored its other inputs.
    """
    node = nodes[following]
    others = {source_of(nodes, i) for i in node.inputs if i != last}
    return node.op in _BY_PIXEL and last in node.inputs and others <= available
