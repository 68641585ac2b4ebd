"""Checks that the slopes of signs are the derivatives of the curves in their papers."""

import numpy as np
import pytest

from recu_jax.binarizers import signs
from recu_jax.functional import approx_sign
from tests.support.slopes import slope


@pytest.mark.usefixtures("x64")
def test_slopes_are_the_derivatives_of_the_papers_curves():
    x = np.array([-2.3, -1.2, -0.7, -0.31, -0.15, 0.15, 0.31, 0.7, 1.2, 1.45])
    s = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    t, o, h = 3.7, 2.2, 1e-6
    curves = {
        "swish": (lambda x: 2 * s(5 * x) * (1 + 5 * x * (1 - s(5 * x))) - 1, signs.swish_sign, x),
        "ede": (lambda x: np.tanh(t * x), lambda x: signs.ede_sign(x, t), x),
        "ede, t small": (lambda x: np.tanh(0.3 * x) / 0.3, lambda x: signs.ede_sign(x, 0.3), x),
        "reste": (lambda x: np.sign(x) * abs(x) ** (1 / o), lambda x: signs.reste_sign(x, o), x[x > -1.5]),
        "approx": (lambda x: np.where(x < 0, 2 * x + x**2, 2 * x - x**2), approx_sign, x[abs(x) < 1]),
    }
    for name, (curve, function, at) in curves.items():
        derivative = (curve(at + h) - curve(at - h)) / (2 * h)
        np.testing.assert_allclose(slope(function, at), derivative, rtol=1e-7, atol=1e-9, err_msg=name)
