"""Compares theory with integrals over the clamped density, and with the numbers in SPEC.md section 5."""

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from recu_jax.diagnostics import theory


@pytest.mark.parametrize("tau", [0.6, 0.816, 0.85, 0.99, 1.0])
def test_theory_is_what_integrals_over_the_clamped_density_say(tau):
    b = 1.7
    q = stats.laplace.ppf(tau, scale=b) if tau < 1 else 60 * b

    def density(w):
        return stats.laplace.pdf(w, scale=b)

    inside = integrate.quad(lambda w: density(w) * (abs(w) - b) ** 2, 0, q, points=[b] if b < q else None)[0]
    continuous = integrate.quad(lambda w: -density(w) * np.log(density(w)), 0, q)[0]
    mass = 1 - tau
    error = 2 * (inside + mass * (q - b) ** 2)
    entropy = 2 * (continuous - (mass * np.log(mass) if mass else 0))
    np.testing.assert_allclose(theory.quantization_error(b, tau), error, rtol=1e-5)
    np.testing.assert_allclose(theory.entropy(b, tau), entropy, rtol=1e-5)
    np.testing.assert_allclose(theory.clipped_share(tau), 2 * mass, atol=1e-6)


def test_the_least_error_is_where_the_paper_says():
    found = optimize.minimize_scalar(lambda tau: float(theory.quantization_error(1.0, tau)), bounds=(0.51, 0.99))
    assert abs(found.x - theory.BEST_TAU) < 1e-3 and round(theory.BEST_TAU, 3) == 0.816
    values = [float(theory.quantization_error(1.0, tau)) for tau in (0.85, 0.90, 0.95, 0.99, 1.0)]
    np.testing.assert_allclose(values, [0.278, 0.356, 0.540, 0.844, 1.0], atol=1e-3)  # SPEC.md 5
