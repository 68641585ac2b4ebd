"""Makes tables from the recorded results in experiments/results, so that no number is copied by hand."""

import json
import re

from compile_tables import compile_only, scale  # noqa: F401  (tables, which _Record finds by their names)
from engine_tables import engines, engines_against_int8  # noqa: F401
from markdown_table import table
from pack_tables import pack  # noqa: F401  (as above)
from records import RESULTS, made_by, read, spread
from sphinx.util.docutils import SphinxDirective

_SHOWN = 8  # rows of a profile
# Names of the records of train and evaluation steps, by the instruction set of the kernels.
_STEPS = {"AVX-512": "steps_avx512.json", "AVX2": "steps_avx2.json"}


def _steps(kind):
    """Returns the rows of the table of one kind of step, and the lines that name their records."""
    rows, made = [], []
    for kernels, name in _STEPS.items():
        found = {row: of for row, of in read(name)["rows"].items() if row.startswith(f"{kind} ")}
        for row, of in found.items():
            model, speed = row.removeprefix(f"{kind} "), of["images_per_second"]
            peers = (side for side in speed if side.startswith("compiled"))
            rows.append(
                [
                    f"`{model}`,<br>batch {of['batch']}",
                    kernels,
                    spread(of["value"]),
                    spread(of["times_faster_than"]["eager"]),
                    f"{speed['jax']:.0f}",
                    f"{max(speed[side] for side in peers):.0f}",
                    f"{of['share_of_operations']:.0%}",
                ]
            )
        made += [f"- {kernels}. {made_by(name)}"] if found else []
    return rows, "\n".join(made)


def _table_of_steps(kind):
    rows, made = _steps(kind)
    header = [
        "model", "kernels", "times `torch.compile`", "times eager PyTorch", "images/s", "`torch.compile`, images/s",
        "of a product",
    ]  # fmt: skip
    return f"{table(header, rows)}\n\n{made}"


def training() -> str:
    """Returns the table of training against PyTorch."""
    return _table_of_steps("train")


def evaluation() -> str:
    """Returns the table of evaluation against PyTorch."""
    return _table_of_steps("eval")


def cpu_profile() -> str:
    """Returns the tables of what the operations of a train step cost on CPUs, one for each model."""
    return "\n\n".join(map(_profile, ("cifar_resnet20", "cifar_vgg_small", "imagenet_resnet18")))


def _profile(model):
    name = f"profile_{model}.json"
    record = read(name)
    whole = record["milliseconds_a_step"]
    rows = [
        [
            f"`{of['kind']}`",
            f"{of['times_a_step']:.0f}",
            f"{of['milliseconds']:.0f}",
            f"{of['milliseconds'] / whole:.0%}",
        ]
        for of in record["operations"][:_SHOWN]
    ]
    header = [
        f"operations of a step of `{record['model']}`, batch {record['batch_size']}",
        "times",
        "ms",
        "of the step",
    ]
    return f"{table(header, rows)}\n\nA step took {whole:.0f} ms. {made_by(name)}"


_SINGLE = {
    "memory cifar_resnet20": "peak memory of a `cifar_resnet20` train step, batch 256, divided by PyTorch's",
    "import: import recu_jax": "`import recu_jax`, divided by `import flax.linen`",
    "import: from recu_jax import BinaryConv, create_model": (
        "`from recu_jax import BinaryConv, create_model`, divided by `import flax.linen`"
    ),
    "input_pipeline 2 workers / 1": "photographs a second with 2 workers, divided by those with 1 worker",
    "input_pipeline / Pillow": "photographs a second, divided by those of the same pipeline in Pillow",
    "input_pipeline growth over 20,000 images, MB": "growth of memory over 20,000 photographs, MB",
}
_FIRST_STEP = {
    "first_step cold": "from the start of the process to the first step on the digits, seconds",
    "first_step warm": "from the start to the first step with a warm `--config.compilation_cache_dir`, seconds",
}
_SINGLE |= _FIRST_STEP


def start_up() -> str:
    """Returns the table of memory, import, first step and input pipeline."""
    names = ("start.json", "cpu.json")
    found = read(names[1])["rows"] | read(names[0])["rows"]
    rows = [[said, spread(found[row]["value"], 1 if row in _FIRST_STEP else 2)] for row, said in _SINGLE.items()]
    return "\n\n".join([table(["", "median (least to most)"], rows), *map(made_by, names)])


def _case(name):
    kind, _, channels = name.rpartition("_")
    side = {"64": 56, "128": 28, "256": 14, "512": 7}.get(channels)
    what = {"layer": "", "sums_layer": ", sums alone", "real_layer": ", from real activations"}.get(kind)
    return f"`{name}`" if what is None else f"3x3, {channels} channels, {side}x{side}{what}"


def _inference(name, wanted):
    rows = []
    for case, of in read(name)["cases"].items():
        if not wanted(case):
            continue
        share = of.get("share_of_popcount_bound")
        rows.append(
            [
                _case(case),
                f"{1000 * of['median_seconds']['recu']:.3f}",
                spread(of["times_xla"], 1),
                spread(of["times_torch"], 1),
                f"{of['times_two_threads']['median']:.2f}",
                f"{share:.0%}" if share else "",
            ]
        )
    header = ["", "ms", "times XLA", "times PyTorch", "times faster on two threads", "share of the popcount limit"]
    return f"{table(header, rows)}\n\n{made_by(name)}"


def inference() -> str:
    """Returns the table of layers with alpha and batch norm, and of whole networks."""
    return _inference("inference.json", lambda case: not case.startswith(("sums", "real")))


def inference_layers() -> str:
    """Returns the table of layers that return sums alone, or begin with real activations."""
    return _inference("inference.json", lambda case: case.startswith(("sums", "real")))


def file_sizes() -> str:
    """Returns the table of the sizes of exported files."""
    rows = [
        [f"`{name}`", f"{of['bytes']:,}", f"{of['float32_bytes']:,}", f"{of['times_smaller']:.1f}"]
        for name, of in read("file_sizes.json").items()
    ]
    shown = table(["model", "bytes of the file", "bytes of its float32 parameters", "times smaller"], rows)
    return f"{shown}\n\n{made_by('file_sizes.json')}"


def input_pipeline() -> str:
    """Returns the table of the input pipeline, in photographs a second."""
    record = read("input_pipeline.json")
    rows = [
        ["recu_jax, 2 workers", spread(record["images_per_second"]["recu_jax"], 0)],
        ["the same pipeline in Pillow, 2 workers", spread(record["images_per_second"]["pillow"], 0)],
    ]
    rows += [
        [f"recu_jax, `--config.num_workers={workers}`", f"{speed:.0f}"]
        for workers, speed in record["recu_jax_images_per_second_by_workers"].items()
    ]
    return f"{table(['', 'photographs a second'], rows)}\n\n{made_by('input_pipeline.json')}"


def overheads() -> str:
    """Returns the table of the time that diagnostics and checkpoints take."""
    digits, cifar = (read(f"diagnostics_overhead_{name}.json") for name in ("digits", "cifar10_5000"))
    saves = sorted(read("checkpoint_overhead.json")["overhead_of_each_pair_percent"])
    rows = [
        ["diagnostics alone, digits: of an epoch", f"{digits['diagnostics_share_of_epoch']:.1%}"],
        ["diagnostics, events and report, digits: of an epoch", f"{digits['share_of_epoch']:.1%}"],
        ["diagnostics, events and report, 5,000 CIFAR-10 images: of an epoch", f"{cifar['share_of_epoch']:.1%}"],
        [
            "a save after 60 steps of ResNet-20: of these steps",
            f"{saves[len(saves) // 2]:.1f}% ({saves[0]:.1f} to {saves[-1]:.1f})",
        ],
    ]
    names = ("diagnostics_overhead_digits.json", "diagnostics_overhead_cifar10_5000.json", "checkpoint_overhead.json")
    return "\n\n".join([table(["", "share"], rows), *map(made_by, names)])


def exports() -> str:
    """Returns the table of the results of `recu export --check` on recorded runs."""
    rows = []
    for name in ("digits_resnet8", "cifar_resnet20", "cifar_resnet20_80_epochs"):
        of = json.loads((RESULTS / "export_check" / f"{name}.json").read_text())
        rows.append(
            [
                f"`{name}`",
                f"{of['images']:,}",
                of["differing_predictions"],
                f"{of['max_logit_difference']:.1e}",
                f"{of['bytes']:,}",
            ]
        )
    return table(["run", "test images", "differing predictions", "largest difference of a logit", "bytes"], rows)


def devices() -> str:
    """Returns the table of exported C on emulated devices.

    A differing prediction is one that differs from `predict` of the exported file. Flash and RAM are the network's.
    """
    rows = []
    for path in sorted((RESULTS / "devices").glob("*.json"), reverse=True):
        record = json.loads(path.read_text())
        for device, of in record["devices"].items():
            sizes = [f"{of[key]:,}" if key in of else "" for key in ("network_flash_bytes", "network_ram_bytes")]
            different = f"{of['differing_predictions']} of {record['test_images']}"
            rows.append([f"`{record['model']}`", f"{device}, {of['kernels']}", different, *sizes])
    return table(["network", "device and kernels", "differing predictions", "bytes of flash", "of RAM"], rows)


def said_by(name: str) -> str:
    """Returns the text of a record, such as `RECORD/README.md`, without the title.

    Links lead to the folder of the record.
    """
    path = RESULTS / name
    folder = f"../experiments/results/{path.parent.relative_to(RESULTS)}"
    text = re.sub(r"^# .*\n", "", path.read_text(), count=1)
    text = re.sub(r"(?<=\d) \+- (?=\d)", "\N{NO-BREAK SPACE}\N{PLUS-MINUS SIGN}\N{NO-BREAK SPACE}", text)
    text = re.sub(r"(?<![`\[])`([\w./-]+\.\w+)`(?![`\]])", lambda m: _file(m, path.parent, folder), text)
    text = re.sub(r"!\[(.*?)\]\((.+?)\)", rf"![\1]({folder}/\2)", text)
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!http)([^)#]+)\)", rf"{{download}}`\1 <{folder}/\2>`", text)


def _file(match, folder, shown):
    """Returns a download link for a file name in a text, or the name as it is if the record has no such file."""
    there = (folder / match[1]).is_file()
    return f"{{download}}`{match[1].rpartition('/')[2]} <{shown}/{match[1]}>`" if there else match[0]


def binarizers() -> str:
    """Returns the recorded table of each binarizer's accuracy, without the last column, which lists single seeds."""
    folder = RESULTS / "binarizers"
    lines = [re.sub(r"[^|]*\|$", "", line) if line.startswith("|") else line for line in
             (folder / "table.md").read_text().splitlines()]  # fmt: skip
    return "\n".join(lines) + "\n\nRecord: {download}`table.md <../experiments/results/binarizers/table.md>`."


class _Said(SphinxDirective):
    """Inserts the text of a record: `{record} NAME/README.md`."""

    required_arguments = 1

    def run(self):
        path = RESULTS / self.arguments[0]
        # Records are not among Sphinx's sources. Without this call, Sphinx would not notice that a record changed.
        self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(said_by(self.arguments[0]))


class _Record(SphinxDirective):
    """Inserts the Markdown that the function NAME of this module returns: `{record-table} NAME`."""

    required_arguments = 1

    def run(self):
        return self.parse_text_to_nodes(globals()[self.arguments[0].replace("-", "_")]())


def setup(app):
    """Registers the directives."""
    app.add_directive("record-table", _Record)
    app.add_directive("record", _Said)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
