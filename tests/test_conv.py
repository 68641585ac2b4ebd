"""The written-out backward pass against JAX's own, and its geometry against `nn.Conv`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from recu_jax.conv import ConvSpec, scaled_conv
from recu_jax.errors import UserError
from recu_jax.functional import binary_conv, sign, standardize

GEOMETRIES = [
    # window, strides, padding, dilation, groups, spatial shape
    ((3, 3), 1, "SAME", 1, 1, (8, 8)),
    ((3, 3), 2, ((1, 1), (1, 1)), 1, 1, (9, 7)),
    ((1, 1), 2, "VALID", 1, 1, (8, 8)),
    ((5, 3), (2, 1), "SAME", (1, 2), 2, (11, 9)),
    ((3, 3), 1, 1, 2, 4, (8, 8)),
    ((3,), 2, "CAUSAL", 2, 1, (12,)),
    ((4,), 1, "CIRCULAR", 1, 2, (10,)),
    ((3, 3), 1, "REFLECT", 1, 1, (6, 6)),
    ((3, 3), 1, "CIRCULAR", 2, 1, (7, 7)),
    ((3, 2, 3), 1, [1, 0, (2, 1)], 1, 1, (4, 5, 6)),
]


def arrays(window, groups, spatial, in_features=4, features=8):
    r = np.random.default_rng(0)
    x = jnp.asarray(r.standard_normal((2, *spatial, in_features)))
    return (
        x,
        jnp.asarray(r.standard_normal((*window, in_features // groups, features))),
        jnp.asarray(r.random(features)),
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("window,strides,padding,dilation,groups,spatial", GEOMETRIES)
def test_forward_equals_flax_conv_of_signs(window, strides, padding, dilation, groups, spatial):
    x, kernel, alpha = arrays(window, groups, spatial)
    conv = nn.Conv(
        8, window, strides, padding, kernel_dilation=dilation, feature_group_count=groups, use_bias=False,
        param_dtype=jnp.float64,
    )  # fmt: skip
    expected = conv.apply({"params": {"kernel": sign(standardize(kernel))}}, sign(x))
    expected = np.asarray(expected) * np.asarray(alpha)
    got = binary_conv(
        x, kernel, alpha, strides=strides, padding=padding, kernel_dilation=dilation, feature_group_count=groups
    )
    np.testing.assert_allclose(got, expected, rtol=1e-14)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("window,strides,padding,dilation,groups,spatial", GEOMETRIES)
@pytest.mark.parametrize("scaled", [True, False])
def test_gradients_equal_those_of_lax(window, strides, padding, dilation, groups, spatial, scaled):
    if padding in ("CIRCULAR", "REFLECT"):
        padding = "VALID"  # the rest is jnp.pad, whose gradient is JAX's
    x, kernel, alpha = arrays(window, groups, spatial)
    spec = ConvSpec.create(window, strides, padding, dilation, groups)

    def plain(x, kernel, alpha):
        letters = "HWD"[: len(window)]
        y = lax.conv_general_dilated(
            x, kernel, spec.strides, spec.padding, rhs_dilation=spec.kernel_dilation, feature_group_count=groups,
            dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        )  # fmt: skip
        return y * alpha.reshape((1,) * (y.ndim - 1) + (-1,)) if scaled else y

    def ours(x, kernel, alpha):
        return scaled_conv(x, kernel, alpha if scaled else None, spec)

    y, pull = jax.vjp(plain, x, kernel, alpha)
    dy = jnp.asarray(np.random.default_rng(1).standard_normal(y.shape))
    y_ours, pull_ours = jax.vjp(ours, x, kernel, alpha)
    np.testing.assert_allclose(y_ours, y, rtol=1e-14)
    for got, expected in zip(pull_ours(dy), pull(dy), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)


def test_unknown_padding():
    with pytest.raises(UserError, match="padding is 'FULL' for a 2-D convolution"):
        ConvSpec.create((3, 3), 1, "FULL", 1, 1)
