"""Compares measures of weights with NumPy on constructed weights, and with theory on Laplace samples."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from recu_jax import BinaryLayer, diagnostics
from recu_jax.binarizers import activations, weights


def layer_of(alpha="learned", **recu):
    """Returns a layer as `binary_layers` lists it, with options of ReCU. Measures do not use its kernel shape, ()."""
    return BinaryLayer("conv", "conv", (), alpha, True, weights.ReCU(**recu), activations.ReCU())


PLAIN = layer_of(standardize=False)


def variables_of(kernel, alpha=None, name="conv"):
    alpha = np.ones(kernel.shape[-1], np.float32) if alpha is None else alpha
    return {"params": {name: {"kernel": jnp.asarray(kernel), "alpha": jnp.asarray(alpha)}}}


@functools.cache
def compiled(layers, **options):
    return jax.jit(functools.partial(diagnostics.measure_weights, layers=layers, **options))


def measure(kernel, tau=None, before=None, layer=PLAIN, alpha=None, rate=1.0, **options):
    """Returns the measures of one layer, and the memory for the next epoch."""
    layers = (layer,)
    memory = diagnostics.remember(variables_of(kernel), layers) if before is None else before
    tau = None if tau is None else np.float32(tau)
    measured, memory = compiled(layers, **options)(variables_of(kernel, alpha), memory, tau=tau, rate=np.float32(rate))
    return diagnostics.by_layer(measured, layers)[layer.path], memory


def laplace(shape, scale, seed=0):
    return stats.laplace.rvs(scale=scale, size=shape, random_state=np.random.default_rng(seed)).astype(np.float32)


@pytest.mark.parametrize("tau", [0.7, 0.85, 0.95, 0.99, 1.0])
@pytest.mark.parametrize("b", [0.02, 2.0])
def test_laplace_weights_are_as_theory_says(tau, b):
    kernel = laplace((3, 3, 128, 256), b)
    n = kernel.size
    m, _ = measure(kernel, tau)
    assert abs(m["scale"] / b - 1) < 4 / np.sqrt(n)
    assert abs(m["clipped"] - 2 * (1 - tau)) < 1e-6 + 4 * np.sqrt(2 * (1 - tau) / n)
    assert m["clipped_theory"] == pytest.approx(2 * (1 - tau), abs=1e-6)
    assert m["laplace_distance"] < 2 / np.sqrt(n)
    assert m["quantile"] == pytest.approx(float(stats.laplace.ppf(tau, scale=m["scale"])), rel=1e-4)
    # Most noise of the quantization error is that of the mean of w^2, with standard deviation b^2 sqrt(20 / n).
    assert abs(m["quantization_error"] - m["quantization_error_theory"]) < 5 * b * b * np.sqrt(20 / n)
    # Bins of width h = 1/4, in units of b, smooth the density. This adds at most h^2 / 24 = 0.003 to the entropy.
    assert abs(m["entropy"] - m["entropy_theory"]) < 0.006
    assert m["histogram"].sum() == n


def test_normal_weights_are_no_laplace_weights():
    m, _ = measure(np.random.default_rng(0).normal(size=(3, 3, 128, 256)).astype(np.float32))
    u = np.linspace(-8, 8, 65)[1:-1]
    deviation = np.sqrt(np.pi / 2)  # in units of mean|w|
    expected = abs(stats.norm.cdf(u, scale=deviation) - stats.laplace.cdf(u)).max()
    assert m["laplace_distance"] == pytest.approx(expected, abs=4e-3) and expected > 0.04


def numpy_diagnostics(kernel, previous, tau, rate, b=2.0, standardize=True, center=True):
    """Computes the measures by definition, in NumPy and float64. `previous` has the kernels of the earlier epochs."""

    def standardized(kernel):
        kernel = np.asarray(kernel, np.float64)
        if not standardize:
            return kernel
        flat = kernel.reshape(-1, kernel.shape[-1])
        flat = flat - flat.mean(0) * center
        return (flat * np.sqrt(2) * b / np.sqrt(flat.var(0, ddof=1) + 1e-5)).reshape(kernel.shape)

    w = standardized(kernel)
    scale = abs(w).mean()
    q = -scale * np.log(2 - 2 * tau)
    clamped = np.clip(w, -q, q)
    edges = scale * np.linspace(-8, 8, 65)
    counts = np.histogram(np.clip(w, edges[0], edges[-1]), edges)[0]
    signs = [np.where(standardized(k) < 0, -1, 1) for k in [*previous, kernel]]
    flips = [a != b for a, b in itertools.pairwise(signs)]
    unflipped = np.zeros(w.shape, int)
    for flip in flips:
        unflipped = np.where(flip, 0, unflipped + 1)
    # Epochs until the weight is 0, if it moves as in the last epoch, but at the full learning rate.
    with np.errstate(divide="ignore"):
        epochs_to_zero = abs(w) / (abs(w - standardized(previous[-1])) / rate)
    inside = w[abs(w) < q]
    cut = np.unique(np.clip(edges, -q, q))
    p = np.histogram(inside, cut)[0] / w.size
    masses = [(w < -q).mean(), (w > q).mean()]
    entropy = -sum(a * np.log(a / d) for a, d in zip(p, np.diff(cut), strict=True) if a)
    entropy -= sum(m * np.log(m) for m in masses if m)
    entropy += ((p > 0).sum() + np.count_nonzero(masses) - 1) / (2 * w.size)
    return {
        "clipped": (abs(w) > q).mean(),
        "dead": ((unflipped >= 5) & (epochs_to_zero > 100)).mean(),
        "flipped": flips[-1].mean(),
        "scale": scale,
        "quantile": q,
        "quantization_error": (abs(clamped) - scale).__pow__(2).mean(),
        "entropy": entropy,
        "laplace_distance": abs(counts.cumsum()[:-1] / w.size - stats.laplace.cdf(edges[1:-1] / scale)).max(),
        "histogram": counts,
    }


@pytest.mark.parametrize("standardize,center", [(True, True), (True, False), (False, True)])
def test_seven_epochs_against_numpy(standardize, center):
    """Some weights move far, some a little, and some hardly at all."""
    r = np.random.default_rng(1)
    kernels = [r.laplace(size=(3, 3, 8, 16))]
    speed = r.choice([1e-4, 0.05, 1.0], size=kernels[0].shape, p=[0.5, 0.2, 0.3])
    for _ in range(7):
        kernels.append(kernels[-1] * 0.999 + speed * r.normal(size=speed.shape))
    kernels = [k.astype(np.float32) for k in kernels]
    layer = layer_of(standardize=standardize, center=center)
    memory = diagnostics.remember(variables_of(kernels[0]), (layer,))
    for epoch in range(1, 8):
        tau = 0.8 + 0.02 * epoch
        rate = 1 - 0.1 * epoch
        got, memory = measure(kernels[epoch], tau, memory, layer, rate=rate)
        expected = numpy_diagnostics(kernels[epoch], kernels[:epoch], tau, rate, standardize=standardize, center=center)
        for name, value in expected.items():
            np.testing.assert_allclose(got[name], value, rtol=2e-4, atol=1e-6, err_msg=f"{name} of epoch {epoch}")
        assert (got["dead"] > 0) == (epoch >= 5)
        assert got["flipped"] > 0.02


def test_dead_needs_both_no_flip_and_little_movement():
    r = np.random.default_rng(0)
    start = (r.choice([-1.0, 1.0], (1, 1, 40, 10)) * r.uniform(1, 2, (1, 1, 40, 10))).astype(np.float32)
    at_rest, moving, flipping = np.split(np.arange(40), [10, 30])
    memory = diagnostics.remember(variables_of(start), (PLAIN,))
    for epoch in range(1, 4):
        kernel = start.copy()
        kernel[:, :, moving] *= 1 + 0.2 * epoch
        kernel[:, :, flipping] *= 1 if epoch == 3 else -1  # their signs flip in epoch 1 and flip back in epoch 3
        got, memory = measure(kernel, before=memory, dead_epochs=3, dead_crossing=20)
        assert got["dead"] == pytest.approx(0.25 if epoch == 3 else 0)
        assert got["flipped"] == pytest.approx(0.25 if epoch in (1, 3) else 0)
    assert int(memory["conv"]["unflipped"][:, :, at_rest].min()) == 3
    for _ in range(300):
        memory["conv"]["unflipped"] = np.minimum(memory["conv"]["unflipped"].astype(int) + 1, 255).astype(np.uint8)
    _, memory = measure(kernel, before=memory)
    assert int(memory["conv"]["unflipped"].max()) == 255  # stays at the largest uint8, and does not wrap to 0


def test_a_rate_that_goes_to_zero_kills_no_weight():
    """The weights that move change by a fifth of their value at the full learning rate, and by less at lower rates."""
    r = np.random.default_rng(0)
    kernel = r.laplace(size=(3, 3, 8, 8)).astype(np.float32)
    asleep = r.uniform(size=kernel.shape) < 0.3
    memory = diagnostics.remember(variables_of(kernel), (PLAIN,))
    for rate in (1, 1, 1, 1, 1, 0.5, 0.1, 0.02):
        kernel = np.where(asleep, kernel, kernel * np.float32(1 + 0.2 * rate))
        got, memory = measure(kernel, before=memory, rate=rate)
    assert got["dead"] == pytest.approx(asleep.mean())
    # Below a hundredth of the full rate, no weight becomes dead or alive by its movement.
    got, memory = measure(kernel, before=memory, rate=1e-4)
    assert got["dead"] == pytest.approx(asleep.mean())
    # A flip makes a weight alive, at this rate too.
    got, _ = measure(-kernel, before=memory, rate=1e-4)
    assert got["dead"] == 0


def test_tau_counts_as_one_where_nothing_is_clamped():
    kernel = laplace((3, 3, 16, 16), 1.0)
    for m, _ in (measure(kernel), measure(kernel, 0.9, layer=layer_of(standardize=False, clamp=False))):
        assert m["clipped"] == m["clipped_theory"] == 0 and m["quantile"] == np.inf
        assert m["quantization_error_theory"] == pytest.approx(m["scale"] ** 2)
        assert np.isfinite(m["entropy"])


def test_alpha():
    kernel = laplace((3, 3, 4, 3), 1.0)
    m, _ = measure(kernel, alpha=np.array([0.5, -0.25, 3.0], np.float32))
    np.testing.assert_allclose([m["alpha_min"], m["alpha_mean"], m["alpha_max"]], [-0.25, 3.25 / 3, 3.0])
    m, _ = measure(kernel, 0.8, layer=layer_of(standardize=False, alpha="mean"))
    bound = stats.laplace.ppf(0.8, scale=abs(kernel).mean())
    alpha = np.minimum(abs(kernel), bound).mean((0, 1, 2))
    np.testing.assert_allclose([m["alpha_min"], m["alpha_max"]], [alpha.min(), alpha.max()], rtol=1e-5)
    assert np.isnan(measure(kernel, layer=layer_of(alpha="none"))[0]["alpha_min"])
