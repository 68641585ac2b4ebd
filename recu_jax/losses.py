"""Losses, one number per image (SPEC.md section 7)."""

import jax
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """`-log softmax(logits)[label]`: logits (batch, classes) and int labels (batch,) to (batch,)."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def distillation(logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """`-sum softmax(teacher) log_softmax(student)` over the classes: two arrays of (batch, classes) to (batch,).

    No gradient flows to the teacher.
    """
    targets = jax.nn.softmax(jax.lax.stop_gradient(teacher_logits))
    return optax.softmax_cross_entropy(logits, targets)
