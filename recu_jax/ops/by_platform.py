"""Runs functions that have one form for CPUs and another for GPUs and TPUs, or one for each of the three.

A function is traced on one device and may be compiled for another: `jax.jit` compiles for the device of its arguments,
`jax.export` for any platform. So the form is chosen when a traced program is lowered, not while it is traced.

`jax.lax.platform_dependent` also chooses at lowering. It is not used alone, for two reasons. It leaves a conditional in
every program. And it puts compiled kernels into exported programs, which must run where recu_jax is not installed.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from recu_jax.ops import native

_by_platform_p = Primitive("by_platform")
_by_platform_p.multiple_results = True


def by_platform(*args: Any, cpu: Callable, default: Callable, gpu: Callable | None = None) -> Any:
    """Computes `cpu(*args)` in programs for CPUs, `gpu(*args)` in those for GPUs, and `default(*args)` in all others.

    Args:
      *args: trees of arrays.
      cpu, default, gpu: forms of one function of `*args`. Their results have the same shapes and dtypes, and are equal
        up to rounding. JAX differentiates `default`, for CPUs and GPUs too. Without `gpu`, GPUs run `default`.

    Outside of `jax.jit`, GPUs run `default`. If `jax.export` makes a program for several platforms, CPUs run `cpu` and
    all others run `default`. GPUs run `gpu` only if all of these platforms are GPUs.
    """
    return _bind(args, cpu, cpu, default, None, gpu)


def compiled_or_xla(*args: Any, compiled: Callable, xla: Callable) -> Any:
    """Computes `compiled(backend, *args)` on a CPU with compiled kernels, and `xla(*args)` elsewhere.

    Programs of `jax.export` always compute `xla(*args)`: they may run on CPUs with other instructions and without
    recu_jax.

    Args:
      *args: trees of arrays.
      compiled: function of the backend and `*args`. The backend is an instruction set of `native.instruction_sets()`.
        The function is not traced on a machine without compiled kernels.
      xla: as `default` of `by_platform`.
    """

    def cpu(*args):
        backend = native.cpu_backend()
        return xla(*args) if backend == "xla" else compiled(backend, *args)

    return _bind(args, cpu, xla, xla, _needs_devices())


@functools.cache
def _needs_devices():
    """Returns a jaxpr that contains `custom_partitioning`, to be a parameter of the primitive `by_platform`.

    JAX passes the devices to the lowering of a program only if its jaxpr, or a parameter in it, contains a primitive
    that needs them. `compiled` functions may need them, because `partitioned.over_batch` uses it.
    """
    call = custom_partitioning(lambda x: x)
    call.def_partition(None)
    return jax.make_jaxpr(call)(jnp.float32(0))


def _bind(args, cpu, exported, default, marker, gpu=None):
    gpu = gpu or default
    leaves, structure = jax.tree.flatten(args)
    program, shapes = jax.make_jaxpr(default, return_shape=True)(*args)
    flat = {
        f: lambda *leaves, f=f: jax.tree.leaves(f(*jax.tree.unflatten(structure, leaves)))
        for f in {cpu, exported, default, gpu}
    }
    results = _by_platform_p.bind(
        *map(jnp.asarray, leaves),
        cpu=flat[cpu],
        exported=flat[exported],
        default=flat[default],
        gpu=flat[gpu],
        avals=tuple(program.out_avals),
        marker=marker,
    )
    return jax.tree.unflatten(jax.tree.structure(shapes), results)


@_by_platform_p.def_abstract_eval
def _avals(*args, avals, **functions):
    return avals


@_by_platform_p.def_impl
def _run(*args, cpu, default, **others):
    # Within `jax.checkpoint`, constants are arrays that are on no device yet.
    args = tuple(arg if hasattr(arg, "devices") else jax.device_put(arg) for arg in args)
    platforms = {device.platform for arg in args for device in arg.devices()}
    return (cpu if platforms <= {"cpu"} else default)(*args)


def _lower(ctx, *args, cpu, exported, default, gpu, **others):
    module = ctx.module_context
    platforms = set(ctx.platforms or module.platforms)
    if platforms == {"cpu"}:
        chosen = exported if module.lowering_parameters.for_export else cpu
    elif platforms <= {"cuda", "rocm"}:
        chosen = gpu
    elif "cpu" not in platforms or exported is default:
        chosen = default
    else:  # an exported program for several platforms

        def chosen(*args):
            return lax.platform_dependent(*args, cpu=exported, default=default)

    return mlir.lower_fun(chosen)(ctx, *args)


def _batch(args, axes, *, cpu, exported, default, gpu, marker, avals):
    mapped = {f: jax.vmap(f, in_axes=tuple(axes)) for f in {cpu, exported, default, gpu}}
    results = _bind(args, mapped[cpu], mapped[exported], mapped[default], marker, mapped[gpu])
    return results, [0] * len(results)


def _jvp(primals, tangents, *, default, **others):
    moving = [i for i, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero)]

    def of_moving(*args):
        given = dict(zip(moving, args, strict=True))
        return default(*(given.get(i, primal) for i, primal in enumerate(primals)))

    results = _by_platform_p.bind(*primals, default=default, **others)
    along = jax.jvp(of_moving, tuple(primals[i] for i in moving), tuple(tangents[i] for i in moving))[1]
    return results, along


mlir.register_lowering(_by_platform_p, _lower)
batching.primitive_batchers[_by_platform_p] = _batch
ad.primitive_jvps[_by_platform_p] = _jvp
