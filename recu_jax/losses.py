"""Computes the losses, one number per image (SPEC.md section 7)."""

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
