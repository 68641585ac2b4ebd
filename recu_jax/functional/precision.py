"""How statistics are computed: in float32 or wider, with an epsilon under each square root."""

import jax
import jax.numpy as jnp

# Added to each variance (SPEC.md sections 1.1 and 2).
EPSILON = 1e-5


def wide(x: jax.Array) -> jax.Array:
    """Casts bfloat16 and float16 to float32; float32 and float64 stay."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
