"""Operations and bytes of a train or evaluation step, counted by XLA, and what this machine reaches of either at best.

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
    """By kind: floating-point operations of the network in floats, and bytes that the compiled program moves.

    Bits are counted as the floats that they stand for: a step's work is the same whoever does it. Bytes are those of
    our own program, compiled kernels included.
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
    """Programs that are traced in this block convolve floats, as on a CPU without the compiled kernels."""
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
    """XLA's costs of a lowered or compiled program, by name."""
    costs = program.cost_analysis()
    return costs[0] if isinstance(costs, list | tuple) else costs


def ceiling():
    """Operations a second of a matrix product of 2048 x 2048, bytes a second (read and written) of 512 MB copied."""
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
    """Seconds of the fastest of `repeats` calls, compilation aside."""
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
