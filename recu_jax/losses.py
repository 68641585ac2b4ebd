"""Computes the losses, one number per image (SPEC.md section 7)."""

from collections.abc import Mapping

import jax
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Computes `-sum q log_softmax(logits)` over the classes, with the smoothed label `q`.

    `q` is `1 - smoothing + smoothing / classes` for the label's class, and `smoothing / classes` for each other class.
    Without smoothing the loss is `-log softmax(logits)[label]`.

    Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, arXiv 1512.00567, section 7.

    Args:
      logits: (batch, classes).
      labels: int, (batch,).
      smoothing: at least 0 and below 1.

    Returns:
      (batch,).
    """
    if smoothing == 0:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, smoothing))


def distillation(logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """Computes `-sum softmax(teacher) log_softmax(student)` over the classes. No gradient flows to the teacher.

    Args:
      logits: logits of the student, (batch, classes).
      teacher_logits: logits of the teacher, (batch, classes).

    Returns:
      (batch,).
    """
    targets = jax.nn.softmax(jax.lax.stop_gradient(teacher_logits))
    return optax.softmax_cross_entropy(logits, targets)


def feature_distance(features: Mapping[str, jax.Array], teacher: Mapping[str, jax.Array]) -> jax.Array:
    """Computes how far the features of a student are from its teacher's. No gradient flows to the teacher.

    The difference of two numbers is squared, and divided by the variance of the channel plus 0.001. The variance is
    that of the teacher's feature over batch, height and width. The result is the mean over each feature, and over the
    features. So 1 is about the distance of a student that returns the mean of each channel.

    Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv 1412.6550, equation 3, have one such feature,
    another shape in the student, and no division.

    Args:
      features: of the student, {name: (batch, height, width, channels)}.
      teacher: of the teacher, with the same names and shapes.

    Returns:
      (batch,).
    """

    def distance(name):
        theirs = jax.lax.stop_gradient(teacher[name])
        scale = theirs.var((0, 1, 2), keepdims=True) + 1e-3
        return ((features[name] - theirs) ** 2 / scale).mean((1, 2, 3))

    return sum(map(distance, features)) / len(features)
