"""Tests what the exported C computes pixel by pixel, and what it stores as a whole."""

import copy

import pytest

from recu_jax import UserError
from recu_jax.deploy import graph
from recu_jax.deploy.c.steps import steps_of


def ops(nodes, numbers):
    return [nodes[i].op for i in numbers]


def test_what_follows_a_convolution_is_computed_with_it(network):
    header, arrays = network
    nodes = graph.check(header["operations"], arrays)
    steps = steps_of(nodes)
    stem, first = steps[:2]
    assert ops(nodes, stem.operations) == ["conv", "batch_norm", "hard_tanh", "sign"]
    assert ops(nodes, first.operations) == ["binary_conv", "affine", "add", "hard_tanh", "sign"]
    # The real numbers are stored for the shortcut, and their signs for the convolution.
    assert ops(nodes, stem.stored) == ["sign", "hard_tanh"]
    # The shortcut is read only at the pixel that is computed, so the result may overwrite it.
    assert first.by_pixel == (stem.operations[2],)
    assert ops(nodes, steps[-1].operations) == ["dense"]
    computed = [i for step in steps for i in step.operations]
    assert sorted(computed) == list(range(1, len(nodes))), "each operation once, and the image not at all"


def test_every_value_is_stored_before_it_is_read(network):
    header, arrays = network
    nodes = graph.check(header["operations"], arrays)
    stored = {0}
    for step in steps_of(nodes):
        assert {*step.reads, *step.by_pixel} <= stored
        stored |= set(step.stored)


def test_sums_that_two_operations_take_are_refused(network):
    header, arrays = copy.deepcopy(network)
    entries = header["operations"]
    affine = next(i for i, entry in enumerate(entries) if entry["op"] == "affine")
    add = next(entry for entry in entries if affine in entry.get("inputs", ()))
    # A second `affine` takes the same sums, and both results are added. The rest stays as it was.
    entries.append(entries[affine])
    entries.append(dict(add, inputs=[affine, len(entries) - 1]))
    entries.append({"op": "mean", "inputs": [len(entries) - 1]})
    nodes = graph.check(entries, arrays)
    with pytest.raises(UserError, match=rf"operation {affine - 1} \(binary_conv\): C takes the sums"):
        steps_of(nodes)
