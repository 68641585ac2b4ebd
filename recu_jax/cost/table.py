"""Prints the cost of a model as a table."""

from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table

from recu_jax.cost.counts import LayerCost, ModelCost, by_precision

_ANY_WIDTH = 1000


def print_table(cost: ModelCost, title: str = "", file: TextIO | None = None) -> None:
    """Prints one line per layer, then the sums.

    Args:
      cost: result of `model_cost`.
      title: title of the table.
      file: file to write to; None is standard output.
    """
    table = Table(title=title, title_justify="left")
    for name in ("layer", "kind", "output", "kernel"):
        table.add_column(name, overflow="fold")
    for name in ("1-bit", "32-bit", "bytes", "MACs", "bits w x a"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in cost.layers:
        table.add_row(*_row(layer))
    console = Console(file=file)
    if not console.is_terminal:  # a file has no line width
        console = Console(file=file, width=_ANY_WIDTH)
    console.print(table)
    for name, said in _sums(cost):
        console.print(f"{name:24}{said}", highlight=False)


def _row(layer: LayerCost) -> list[str]:
    numbers = (layer.binary_parameters, layer.real_parameters + layer.constants, layer.bytes, sum(layer.macs.values()))
    return [
        layer.path or "(the model)",
        layer.kind,
        _shape(layer.output_shape),
        _shape(layer.kernel_shape or ()),
        *(f"{n:,}" if n else "" for n in numbers),
        ", ".join(by_precision(layer.macs)),
    ]


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _sums(cost: ModelCost) -> list[tuple[str, str]]:
    macs = ", ".join(f"{n:,} of {precision} bits" for precision, n in by_precision(cost.macs).items())
    return [
        (
            "parameters",
            f"{cost.parameters:,}: {cost.binary_parameters:,} of 1 bit ({cost.binary_share_of_parameters:.1%}), "
            f"{cost.real_parameters:,} of 32 bits",
        ),
        ("running statistics etc.", f"{cost.constants:,} of 32 bits"),
        (
            "size",
            f"{cost.bytes:,} bytes ({cost.bytes / 2**20:.2f} MiB); in float32 {cost.float32_bytes:,}: "
            f"{cost.compression:.1f} times as much",
        ),
        ("MACs (weight x act.)", f"{macs}; {cost.binary_share_of_macs:.1%} of 1 bit on both sides"),
        ("BOPs = ACE", f"{cost.ace:.3e} (MACs x bits of weights x bits of activations)"),
        ("OPs", f"{cost.ops:.3e} (MACs of 1 bit count 1/64)"),
    ]
