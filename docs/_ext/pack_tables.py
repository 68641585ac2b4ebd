"""Makes the table of packed models from the records of experiments/benchmarks/pack.py."""

from markdown_table import table
from records import made_by, read, spread

_MODELS = {"resnet18": "ResNet-18, 224x224", "vgg": "VGG-small, 32x32, with strides in the place of pooling"}


def pack() -> str:
    """Returns the table of users' models, packed, against their float32 selves."""
    rows, made = [], []
    for model, said in _MODELS.items():
        record = read(f"pack_{model}.json")
        milliseconds, times = record["median_milliseconds"], record["times"]
        folded = times.get("inside / folded")
        rows.append(
            [
                said,
                *(f"{milliseconds[side]:.1f}" for side in ("float", "packed", "inside")),
                *(spread(times[f"float / {side}"], 1) for side in ("packed", "inside")),
                spread(folded) if folded else "",
            ]
        )
        made.append(made_by(f"pack_{model}.json"))
    header = [
        "model", "float32, ms", "packed, ms", "constant, ms", "packed: times faster", "constant: times faster",
        "folded: times faster than constant",
    ]  # fmt: skip
    return "\n\n".join([table(header, rows), *made])
