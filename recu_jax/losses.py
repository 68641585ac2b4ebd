"""Losses, one number per image (SPEC.md section 7)."""

import jax
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes `-log softmax(logits)[label]`.

    Args:
      logits: (batch, classes).
      labels: int, (batch,).

    Returns:
      (batch,).
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def distillation(logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """Computes `-sum softmax(teacher) log_softmax(student)` over the classes. No gradient flows to the teacher.

    Args:
      logits: of the student, (batch, classes).
      teacher_logits: (batch, classes).

    Returns:
      (batch,).
    """
    targets = jax.nn.softmax(jax.lax.stop_gradient(teacher_logits))
    return optax.softmax_cross_entropy(logits, targets)
