"""Makes the tables of 1-bit networks beside other engines, from experiments/results/benchmarks/beside_others.json."""

from markdown_table import table
from records import read, spread

_RECORD = "beside_others.json"
# A row: its title, a side of the record, and the first letters of the names of cases. Of these cases of the side, the
# table shows the fastest.
_ROWS = (
    ("recu_jax, 1-bit", "recu", "1-bit"),
    ("onnxruntime, float32", "onnxruntime", "float32"),
    ("onnxruntime, int8", "onnxruntime", "int8"),
    ("onnxruntime, 1-bit as ONNX", "onnxruntime", "1-bit ONNX"),
    ("OpenVINO, float32", "openvino", "float32"),
    ("OpenVINO, bfloat16 with AMX", "openvino", "bfloat16"),
    ("OpenVINO, int8 with AMX", "openvino", "int8"),
    ("OpenVINO, int8 without AMX", "openvino_no_amx", "int8"),
    ("OpenVINO, 1-bit as ONNX", "openvino", "1-bit ONNX"),
    ("OpenVINO, 1-bit by `BinaryConvolution`", "openvino", "BinaryConvolution"),
    ("Larq Compute Engine, 1-bit", "larq", "1-bit"),
)
_BAR = 2
_BARRED = ("cifar_vgg_small", "imagenet_resnet18")


def engines() -> str:
    """Returns the table of milliseconds for one image, and of test accuracy where a network is trained."""
    record = read(_RECORD)
    networks = record["networks"]
    measured = {name: of for name, of in networks.items() if "test_images" in of}
    rows = []
    for said, side, start in _ROWS:
        found = {name: _fastest(of, side, start) for name, of in networks.items()}
        times = [_milliseconds(found[name]) for name in networks]
        rows.append([said, *times, *(_accuracy(found[name]) for name in measured)])
    header = ["", *(f"`{name}`, ms" for name in networks), *(f"`{name}`, test top-1" for name in measured)]
    return f"{table(header, rows)}\n\n{_made_by(record)}"


def engines_against_int8() -> str:
    """Returns the table of the fastest int8 of all engines, in times of recu_jax."""
    rows = []
    for name, of in read(_RECORD)["networks"].items():
        row = [f"`{name}`"]
        for key in ("fastest_int8", "fastest_int8_without_amx"):
            times = of["cases"][of[key]]["times_recu"]
            bar = f", bar {_BAR}: {'reached' if times['median'] >= _BAR else 'missed'}" if name in _BARRED else ""
            row += [spread(times) + bar.replace(" ", "\N{NO-BREAK SPACE}"), _engine(of[key])]
        rows.append(row)
    header = ["", "times as fast as the fastest int8", "which is", "without AMX", "which is"]
    return table(header, rows)


def _made_by(record):
    versions = {
        package: version
        for of in record["versions"].values()
        for package, version in of.items()
        if package not in ("python", "kernels", "numpy")
    }
    said = ", ".join(f"{package} {version}" for package, version in versions.items())
    machine, file = record["machine"], f"../experiments/results/benchmarks/{_RECORD}"
    return (
        f"Record: {record['date'][:10]}; one of {machine['cores']} cores of an {machine['cpu']}; {said}; "
        f"{{download}}`{_RECORD} <{file}>`. Other processes took up to {record['largest_share_of_others']:.0%} of "
        "the machine in a turn."
    )


def _engine(case):
    side, _, kind = case.partition(", ")
    return f"{'onnxruntime' if side == 'onnxruntime' else 'OpenVINO'}, {kind.removeprefix('int8, ')}"


def _fastest(of, side, start):
    cases = [case for name, case in of["cases"].items() if name.startswith(f"{side}, {start}")]
    if start == "1-bit":
        cases = [of["cases"][f"{side}, 1-bit"]] if f"{side}, 1-bit" in of["cases"] else []
    return min(cases, key=lambda case: case["milliseconds"]["median"], default=None)


def _milliseconds(case):
    return f"{case['milliseconds']['median']:.3f}" if case else "fails"


def _accuracy(case):
    if not case or "accuracy" not in case:
        return "not trained" if case else ""
    return f"{case['accuracy']:.2%}"
