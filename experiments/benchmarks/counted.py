"""Lets XLA count the operations and bytes of train and evaluation steps; measures the CPU's peak and bandwidth.

python experiments/benchmarks/counted.py MODEL...          # prints JSON
"""

import contextlib
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.benchmarks import steps


def count(model):
    """Returns the floating-point operations of each kind of step, and the bytes that the compiled step moves.

    1-bit operations count as the float operations that they stand for, so that all programs for a step have the same
    number of operations. Bytes are those of recu_jax's program, its compiled kernels included.
    """
    batch = steps.BATCH_SIZES[model]
    case, dataset = steps.Case(model, batch, batch), steps.random_dataset(model, batch)
    counted = {kind: {} for kind in steps.KINDS}
    for kind in steps.KINDS:
        lowered = _lower(case, dataset, kind)
        counted[kind]["bytes"] = analysis(lowered.compile())["bytes accessed"]
    with without_kernels():
        for kind in steps.KINDS:
            counted[kind]["operations"] = analysis(_lower(case, dataset, kind))["flops"]
    return counted


@contextlib.contextmanager
def without_kernels():
    """Makes programs that are traced in the `with` block convolve floats, as on a CPU without the compiled kernels."""
    from recu_jax.ops import native

    fastest = native.cpu_backend
    native.cpu_backend = lambda: "xla"
    try:
        yield
    finally:
        native.cpu_backend = fastest


def _lower(case, dataset, kind):
    state, by_kind = steps.jax_steps(case, dataset)
    step, arguments = by_kind[kind]
    return step.lower(state, *arguments())


def analysis(program):
    """Returns XLA's costs of a lowered or compiled program, by name."""
    costs = program.cost_analysis()
    return costs[0] if isinstance(costs, list | tuple) else costs


def ceiling():
    """Measures the operations a second of a 2048 x 2048 matrix product, and the bytes a second of a 512 MiB copy."""
    import jax
    import jax.numpy as jnp

    a = jnp.ones((2048, 2048))
    product = jax.jit(lambda a: a @ a)
    x = jnp.ones(1 << 27)
    copy = jax.jit(lambda x: x + 1)
    return {
        "operations_per_second": 2 * 2048**3 / best(product, a),
        "bytes_per_second": 2 * x.nbytes / best(copy, x),
    }


def best(function, argument, repeats=10):
    """Returns the seconds of the fastest of `repeats` calls, without compilation."""
    import jax

    jax.block_until_ready(function(argument))
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(function(argument))
        times.append(time.perf_counter() - began)
    return min(times)


if __name__ == "__main__":
    from recu_jax import set_xla_flags

    set_xla_flags()
    print(json.dumps({"ceiling": ceiling(), "models": {model: count(model) for model in sys.argv[1:]}}))
