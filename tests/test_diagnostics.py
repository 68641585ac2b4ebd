"""Diagnostics against NumPy on constructed weights, and against theory on Laplace samples."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, optimize, stats

from recu_jax import BinaryConv, BinaryDense, UserError, create_model, diagnostics
from recu_jax.diagnostics import BinaryLayer, measures, theory

PLAIN = BinaryLayer("conv", standardize=False)


def variables_of(kernel, alpha=None, name="conv"):
    alpha = np.ones(kernel.shape[-1], np.float32) if alpha is None else alpha
    return {"params": {name: {"kernel": jnp.asarray(kernel), "alpha": jnp.asarray(alpha)}}}


@functools.cache
def compiled(layers, **options):
    return jax.jit(functools.partial(diagnostics.measure_weights, layers=layers, **options))


def measure(kernel, tau=None, before=None, layer=PLAIN, alpha=None, **options):
    """Measures of one layer, and the memory after it."""
    layers = (layer,)
    memory = diagnostics.remember(variables_of(kernel), layers) if before is None else before
    tau = None if tau is None else np.float32(tau)
    measured, memory = compiled(layers, **options)(variables_of(kernel, alpha), memory, tau)
    return diagnostics.by_layer(measured, layers)[layer.name], memory


def laplace(shape, scale, seed=0):
    return stats.laplace.rvs(scale=scale, size=shape, random_state=np.random.default_rng(seed)).astype(np.float32)


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
    # The tail's fourth moment makes the error's noise: 5 deviations of |w|^2 are 5 b^2 sqrt(20 / n).
    assert abs(m["quantization_error"] - m["quantization_error_theory"]) < 5 * b * b * np.sqrt(20 / n)
    # A histogram with bins of b / 4 smooths the density: at most h^2 / 24 = 0.003.
    assert abs(m["entropy"] - m["entropy_theory"]) < 0.006
    assert m["histogram"].sum() == n


def test_normal_weights_are_no_laplace_weights():
    m, _ = measure(np.random.default_rng(0).normal(size=(3, 3, 128, 256)).astype(np.float32))
    u = np.linspace(-8, 8, 65)[1:-1]
    deviation = np.sqrt(np.pi / 2)  # in units of mean|w|
    expected = abs(stats.norm.cdf(u, scale=deviation) - stats.laplace.cdf(u)).max()
    assert m["laplace_distance"] == pytest.approx(expected, abs=4e-3) and expected > 0.04


def numpy_diagnostics(kernel, previous, tau, b=2.0, standardize=True):
    """The definitions, written out with NumPy in float64; `previous` are the kernels of the epochs before."""

    def standardized(kernel):
        kernel = np.asarray(kernel, np.float64)
        if not standardize:
            return kernel
        flat = kernel.reshape(-1, kernel.shape[-1])
        flat = flat - flat.mean(0)
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
    still = abs(w - standardized(previous[-1])) < 0.01 * scale
    inside = w[abs(w) < q]
    cut = np.unique(np.clip(edges, -q, q))
    p = np.histogram(inside, cut)[0] / w.size
    masses = [(w < -q).mean(), (w > q).mean()]
    entropy = -sum(a * np.log(a / d) for a, d in zip(p, np.diff(cut), strict=True) if a)
    entropy -= sum(m * np.log(m) for m in masses if m)
    entropy += ((p > 0).sum() + np.count_nonzero(masses) - 1) / (2 * w.size)
    return {
        "clipped": (abs(w) > q).mean(),
        "dead": ((unflipped >= 5) & still).mean(),
        "flipped": flips[-1].mean(),
        "scale": scale,
        "quantile": q,
        "quantization_error": (abs(clamped) - scale).__pow__(2).mean(),
        "entropy": entropy,
        "laplace_distance": abs(counts.cumsum()[:-1] / w.size - stats.laplace.cdf(edges[1:-1] / scale)).max(),
        "histogram": counts,
    }


@pytest.mark.parametrize("standardize,centre", [(True, True), (False, True)])
def test_seven_epochs_against_numpy(standardize, centre):
    """Weights of which some jump about, some creep and some hardly move."""
    r = np.random.default_rng(1)
    kernels = [r.laplace(size=(3, 3, 8, 16))]
    speed = r.choice([1e-4, 0.05, 1.0], size=kernels[0].shape, p=[0.5, 0.2, 0.3])
    for _ in range(7):
        kernels.append(kernels[-1] * 0.999 + speed * r.normal(size=speed.shape))
    kernels = [k.astype(np.float32) for k in kernels]
    layer = BinaryLayer("conv", standardize=standardize, centre=centre)
    memory = diagnostics.remember(variables_of(kernels[0]), (layer,))
    for epoch in range(1, 8):
        tau = 0.8 + 0.02 * epoch
        got, memory = measure(kernels[epoch], tau, memory, layer)
        expected = numpy_diagnostics(kernels[epoch], kernels[:epoch], tau, standardize=standardize)
        for name, value in expected.items():
            np.testing.assert_allclose(got[name], value, rtol=2e-4, atol=1e-6, err_msg=f"{name} of epoch {epoch}")
        assert (got["dead"] > 0.05) == (epoch >= 5)
        assert got["flipped"] > 0.02


def test_dead_needs_both_no_flip_and_little_movement():
    r = np.random.default_rng(0)
    start = (r.choice([-1.0, 1.0], (1, 1, 40, 10)) * r.uniform(1, 2, (1, 1, 40, 10))).astype(np.float32)
    at_rest, moving, flipping = np.split(np.arange(40), [10, 30])
    memory = diagnostics.remember(variables_of(start), (PLAIN,))
    for epoch in range(1, 4):
        kernel = start.copy()
        kernel[:, :, moving] *= 1 + 0.2 * epoch
        kernel[:, :, flipping] *= 1 if epoch == 3 else -1  # back in epoch 3: two epochs since are too few
        got, memory = measure(kernel, before=memory, dead_epochs=3, dead_update=0.05)
        assert got["dead"] == pytest.approx(0.25 if epoch == 3 else 0)
        assert got["flipped"] == pytest.approx(0.25 if epoch in (1, 3) else 0)
    assert int(memory["conv"]["unflipped"][:, :, at_rest].min()) == 3
    for _ in range(300):
        memory["conv"]["unflipped"] = np.minimum(memory["conv"]["unflipped"].astype(int) + 1, 255).astype(np.uint8)
    _, memory = measure(kernel, before=memory)
    assert int(memory["conv"]["unflipped"].max()) == 255  # counts on, and does not begin anew


def test_tau_counts_as_one_where_nothing_is_clamped():
    kernel = laplace((3, 3, 16, 16), 1.0)
    for m, _ in (measure(kernel), measure(kernel, 0.9, layer=BinaryLayer("conv", standardize=False, clamp=False))):
        assert m["clipped"] == m["clipped_theory"] == 0 and m["quantile"] == np.inf
        assert m["quantization_error_theory"] == pytest.approx(m["scale"] ** 2)
        assert np.isfinite(m["entropy"])


def test_alpha():
    kernel = laplace((3, 3, 4, 3), 1.0)
    m, _ = measure(kernel, alpha=np.array([0.5, -0.25, 3.0], np.float32))
    np.testing.assert_allclose([m["alpha_min"], m["alpha_mean"], m["alpha_max"]], [-0.25, 3.25 / 3, 3.0])
    m, _ = measure(kernel, 0.8, layer=BinaryLayer("conv", standardize=False, scale="mean"))
    bound = stats.laplace.ppf(0.8, scale=abs(kernel).mean())
    alpha = np.minimum(abs(kernel), bound).mean((0, 1, 2))
    np.testing.assert_allclose([m["alpha_min"], m["alpha_max"]], [alpha.min(), alpha.max()], rtol=1e-5)
    assert np.isnan(measure(kernel, layer=BinaryLayer("conv", scale="none"))[0]["alpha_min"])


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(6, (3, 3), name="first")(x)
        x = BinaryConv(4, (3, 3), scale="mean", clamp=False, name="mean")(x, train=train)
        x = BinaryConv(4, (3, 3), scale="none", b=1.0, centre=False, name="none")(x, train=train)
        x = BinaryConv(4, (3, 3), binary_weights=False, scale="none", name="real")(x)
        return BinaryDense(5, name="dense")(x.mean((1, 2)))


def test_layers_are_found_in_models_and_in_variables():
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)
    found = diagnostics.binary_layers(Net(), jax.ShapeDtypeStruct(x.shape, x.dtype), train=True)
    assert found == (
        BinaryLayer("mean", scale="mean", clamp=False),
        BinaryLayer("none", scale="none", b=1.0, centre=False),
        BinaryLayer("real", scale="none", binary_weights=False),
        BinaryLayer("dense"),
    )
    assert [layer.name for layer in diagnostics.with_binary_weights(found)] == ["mean", "none", "dense"]
    variables = jax.jit(Net().init)(jax.random.key(0), x)
    assert {(layer.name, layer.scale) for layer in diagnostics.layers_in(variables)} == {
        ("mean", "mean"), ("dense", "learned"),
    }  # fmt: skip
    with pytest.raises(UserError, match="no kernel of these variables has an alpha"):
        diagnostics.layers_in({"params": {"first": variables["params"]["first"]}})

    model = create_model("digits_resnet8", 10)
    x = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    names = [f"layer{stage}_0/conv{i}" for stage in (1, 2, 3) for i in (1, 2)]
    assert [layer.name for layer in diagnostics.binary_layers(model, x)] == names


def test_windows_are_those_in_which_a_gradient_passes():
    """Against NumPy for the first layer, and against the gradient itself for a later one."""
    r = np.random.default_rng(0)
    x = (r.normal(size=(4, 6, 6, 3)) * 3).astype(np.float32)
    variables = jax.jit(Net().init)(jax.random.key(0), x)
    shares = jax.jit(functools.partial(diagnostics.activation_windows, Net()))(variables, x)
    assert set(shares) == {"mean", "none", "real", "dense"}

    inner = np.asarray(nn.Conv(6, (3, 3)).apply({"params": variables["params"]["first"]}, x), np.float64)
    deviation = inner.reshape(4, -1).std(1, ddof=1)
    assert shares["mean"] == pytest.approx((abs(inner) < deviation[:, None, None, None]).mean(), abs=2e-3)

    _, state = Net().apply(variables, x, capture_intermediates=True)
    a = state["intermediates"]["real"]["__call__"][0].mean((1, 2))
    a0 = a / jnp.sqrt(a.var(1, ddof=1, keepdims=True) + 1e-5)
    dense = {"params": variables["params"]["dense"]}
    gradient = jax.grad(lambda a0: BinaryDense(5).apply(dense, a0).sum())(a0)
    assert shares["dense"] == pytest.approx(float((gradient != 0).mean()), abs=1e-6)


def test_edges():
    np.testing.assert_allclose(measures.inner_edges(), np.linspace(-8, 8, 65)[1:-1])
    counts = measures.histogram(jnp.array([-100.0, -8.0, -0.1, 0.0, 0.1, 7.9, 100.0]), jnp.float32(1.0))
    assert (counts[0], counts[31], counts[32], counts[-1]) == (2, 1, 2, 2)
