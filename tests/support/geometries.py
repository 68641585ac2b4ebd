"""Lists convolutions of many forms, and makes arrays for them."""

import jax.numpy as jnp
import numpy as np

GEOMETRIES = [
    # window, strides, padding, dilation, groups, spatial shape
    ((3, 3), 1, "SAME", 1, 1, (8, 8)),
    ((3, 3), 2, ((1, 1), (1, 1)), 1, 1, (9, 7)),
    ((1, 1), 2, "VALID", 1, 1, (8, 8)),
    ((5, 3), (2, 1), "SAME", (1, 2), 2, (11, 9)),
    ((3, 3), 1, 1, 2, 4, (8, 8)),
    ((3,), 2, "CAUSAL", 2, 1, (12,)),
    ((4,), 1, "CIRCULAR", 1, 2, (10,)),
    ((3, 3), 1, "REFLECT", 1, 1, (6, 6)),
    ((3, 3), 1, "CIRCULAR", 2, 1, (7, 7)),
    ((3, 2, 3), 1, [1, 0, (2, 1)], 1, 1, (4, 5, 6)),
]


def arrays(window, groups, spatial, in_features=4, features=8):
    r = np.random.default_rng(0)
    x = jnp.asarray(r.standard_normal((2, *spatial, in_features)))
    return (
        x,
        jnp.asarray(r.standard_normal((*window, in_features // groups, features))),
        jnp.asarray(r.random(features)),
    )
