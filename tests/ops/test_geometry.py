"""Compares the shapes of packed convolutions with those of `lax.conv_general_dilated`."""

import jax
import numpy as np
import pytest
from jax import lax

from recu_jax import UserError
from recu_jax.ops.conv import ConvSpec
from recu_jax.ops.geometry import Geometry
from tests.support.geometries import GEOMETRIES


@pytest.mark.parametrize("window,strides,padding,dilation,groups,spatial", GEOMETRIES)
def test_the_output_is_laxs(window, strides, padding, dilation, groups, spatial):
    if padding in ("CIRCULAR", "REFLECT"):
        padding = "VALID"  # `wrap_padding` pads x before the convolution
    geometry = Geometry.create(2, spatial, window, 4, 8, strides, padding, dilation, groups)
    spec = ConvSpec.create(window, strides, padding, dilation, groups)
    y = jax.eval_shape(
        lambda x, k: lax.conv_general_dilated(
            x, k, spec.strides, spec.padding, rhs_dilation=spec.kernel_dilation, feature_group_count=groups,
            dimension_numbers=spec.dimension_numbers,
        ),
        jax.ShapeDtypeStruct((2, *spatial, 4), np.float32),
        jax.ShapeDtypeStruct((*window, 4 // groups, 8), np.float32),
    )  # fmt: skip
    assert geometry.output_shape == y.shape and geometry.out == y.shape[1:-1]


def test_words_blocks_and_numbers_of_a_convolution():
    geometry = Geometry.create(3, (9, 7), (3, 2), 140, 34, (2, 1), ((1, 1), (0, 2)), 1, 2)
    assert (geometry.channels, geometry.features, geometry.taps, geometry.blocks) == (70, 17, 6, 2)
    assert geometry.largest_sum == 6 * 70
    assert geometry.input_shape == (3, 9, 7, 2 * 4)  # 70 bits need three words, rounded up to an even number
    assert geometry.out == (5, 8) and geometry.output_shape == (3, 5, 8, 34)
    assert geometry.bits_shape == (3, 5, 8, 2)
    assert geometry.numbers().tolist() == [
        3, 1, 9, 7, 1, 5, 8, 1, 3, 2, 1, 2, 1, 1, 1, 1, 0, 1, 0, 2, 70, 17,
    ]  # fmt: skip


def test_a_dense_layer_has_no_window():
    geometry = Geometry.create(5, (), (), 40, 3)
    assert (geometry.out, geometry.taps, geometry.output_shape) == ((), 1, (5, 3)) and geometry.compiled


def test_what_the_kernels_do_not_take_and_what_nobody_does():
    assert not Geometry.create(1, (3,) * 4, (2,) * 4, 1, 1).compiled
    with pytest.raises(UserError, match="feature_group_count is 3"):
        Geometry.create(1, (5, 5), (3, 3), 4, 6, groups=3)
