"""Compares losses with their formulas."""

import jax
import numpy as np
import pytest

from recu_jax.losses import cross_entropy, distillation, feature_distance


@pytest.mark.usefixtures("x64")
def test_cross_entropy_against_its_formula():
    r = np.random.default_rng(0)
    logits, labels = r.normal(size=(7, 5)), r.integers(0, 5, 7)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(cross_entropy(logits, labels), -np.log(p[np.arange(7), labels]), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_smoothed_labels_against_the_formula_and_pytorch():
    r = np.random.default_rng(0)
    logits, labels = r.normal(size=(7, 5)), r.integers(0, 5, 7)
    q = np.full((7, 5), 0.2 / 5)
    q[np.arange(7), labels] += 0.8
    expected = -(q * np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))).sum(1)
    found = cross_entropy(logits, labels, smoothing=0.2)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    torch = pytest.importorskip("torch")
    theirs = torch.nn.functional.cross_entropy(
        torch.as_tensor(logits), torch.as_tensor(labels), label_smoothing=0.2, reduction="none"
    )
    np.testing.assert_allclose(found, theirs.numpy(), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_distillation_against_its_formula_and_gradient():
    r = np.random.default_rng(0)
    student, teacher = r.normal(size=(2, 7, 5))
    p, q = (np.exp(a) / np.exp(a).sum(1, keepdims=True) for a in (teacher, student))
    np.testing.assert_allclose(distillation(student, teacher), -(p * np.log(q)).sum(1), rtol=1e-12)
    to_student, to_teacher = jax.grad(lambda s, t: distillation(s, t).sum(), (0, 1))(student, teacher)
    np.testing.assert_allclose(to_student, q - p, rtol=1e-10)
    assert not np.any(to_teacher)


@pytest.mark.usefixtures("x64")
def test_distance_of_features_against_its_formula_and_gradient():
    r = np.random.default_rng(0)
    shapes = {"layer1_0": (3, 4, 4, 2), "layer2_0": (3, 2, 2, 5)}
    student, teacher = ({k: r.normal(1, 2, s) for k, s in shapes.items()} for _ in range(2))
    expected, slope = np.zeros(3), {}
    for name, (n, h, w, c) in shapes.items():
        deviation = np.std(teacher[name].reshape(-1, c), axis=0)
        difference = (student[name] - teacher[name]) / np.sqrt(deviation**2 + 0.001)
        expected += np.square(difference).reshape(n, -1).sum(1) / (h * w * c) / 2
        slope[name] = difference / np.sqrt(deviation**2 + 0.001) / (h * w * c)
    np.testing.assert_allclose(feature_distance(student, teacher), expected, rtol=1e-12)
    to_student, to_teacher = jax.grad(lambda s, t: feature_distance(s, t).sum(), (0, 1))(student, teacher)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), to_student, slope)
    assert not any(map(np.any, jax.tree.leaves(to_teacher)))
