"""Tests the memory plan of exported C: values share memory only if they are needed at different times."""

import numpy as np
import pytest

from recu_jax.deploy import graph
from recu_jax.deploy.c import arena, lines, steps
from recu_jax.deploy.c.arena import Span
from tests.support.random_networks import file_of, variables_of


@pytest.mark.parametrize("seed", range(20))
def test_no_two_spans_share_an_element_during_a_step(seed):
    r = np.random.default_rng(seed)
    spans = []
    for _ in range(30):
        first = int(r.integers(20))
        spans.append(Span(int(r.integers(1, 100)), first, first + int(r.integers(6))))
    offsets, total = arena.place(spans)
    for step in range(26):
        used = np.zeros(total, int)
        for offset, span in zip(offsets, spans, strict=True):
            if span.first <= step <= span.last:
                used[offset : offset + span.size] += 1
        assert used.max(initial=0) <= 1


def test_spans_of_other_times_share_their_memory():
    assert arena.place([Span(5, 0, 1), Span(3, 2, 3), Span(5, 2, 4)]) == ([0, 5, 0], 8)
    assert arena.place([]) == ([], 0)


@pytest.mark.slow
def test_resnet20_keeps_one_value_of_a_stage_and_its_signs():
    """A value of 16 channels of 32 x 32 numbers takes 64 kB in float32. The shortcut of the next stage takes 32 kB."""
    shape = (32, 32, 3)
    header, arrays = file_of("cifar_resnet20", variables_of("cifar_resnet20", shape)[1], shape)
    nodes = graph.check(header["operations"], arrays)
    made = steps.steps_of(nodes)
    sizes = {i: lines.elements_of(nodes[i]) for step in made for i in step.stored}
    assert arena.plan(nodes, made, sizes, "real")[1] * 4 == 64 * 1024 + 32 * 1024
    # Signs take a word of 4 bytes for each pixel. A convolution needs the signs of its input and those of its output.
    assert arena.plan(nodes, made, sizes, "bits")[1] * 4 == 2 * 4 * 32 * 32
