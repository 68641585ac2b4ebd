"""Compiles what the notebook's cells train for a TPU v5e chip, as Colab has. Reads the programs and runs none."""

import hashlib
import os
import tempfile
from pathlib import Path
from unittest import mock

import pytest

from tests.experiments.test_notebook import read_notebook, with_settings, write_archive
from tests.support import tpu_chip

pytestmark = [pytest.mark.slow, tpu_chip.needs_compiler]
# The cells that train, and the cells that these need. `with_settings` adds another cell after `settings`. The id of
# that cell is not in this list.
CELLS = ("settings", "devices", "digits", "data", "cifar10", "layer")


def programs():
    """Runs the cells with a trainer that only compiles one dispatch. Returns {name: facts of the program}.

    Must run in a process that `tpu_chip.answer` started.
    """
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from recu_jax import config as configs
    from recu_jax.training import loop

    chip, found = tpu_chip.devices(), {}

    def compile_dispatch(config, run):
        found[Path(run).name] = facts(*dispatch(config, chip))
        return loop.Result({"test_top1": 0.0}, {"test_top1": 0.0}, None)

    def on_chip(tree):
        everywhere = NamedSharding(Mesh(chip, ("data",)), PartitionSpec())
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=everywhere), tree)

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(loop, "train", compile_dispatch):
        os.chdir(folder)
        write_archive(Path(folder, "archive.tar.gz"))
        notebook = read_notebook()
        with_settings(
            notebook,
            cifar10_model="cifar_resnet8",
            cifar10_batch_size=16,
            cifar10_archive=Path(folder, "archive.tar.gz").as_uri(),
            cifar10_md5=hashlib.md5(Path(folder, "archive.tar.gz").read_bytes()).hexdigest(),
        )
        ours = notebook.cells[next(i for i, c in enumerate(notebook.cells) if c.id == "settings") + 1]
        names = {}
        for cell in notebook.cells:
            if cell.id in CELLS or cell is ours:
                exec(compile(cell.source, cell.id, "exec"), names)
        step, arguments = names["train_step"], (names["params"], names["state"], names["jnp"].int32(0))
        found["layer"] = facts(step.lower(*on_chip(arguments)), None)
        compile_dispatch(configs.load("digits", dtype="bfloat16"), "digits in bfloat16")
    return found


def dispatch(config, devices):
    """Returns the lowered program of one dispatch (several training steps on `devices`), and the state's bytes."""
    import jax

    from recu_jax import data
    from recu_jax.training.feed import make_feed, resident
    from recu_jax.training.recipe import make_recipe
    from recu_jax.training.step import state_shapes

    dataset = data.load(config.dataset, config.data_dir, 0)
    feed = make_feed(config, dataset, devices)
    recipe = make_recipe(config, dataset, feed.steps_per_epoch)
    state = state_shapes(recipe, feed.image_shape)
    # Nothing can be sent to a chip that is not there.
    with mock.patch.object(resident, "replicate", lambda tree, devices: tree):
        feed.start(0)
    _, arguments = feed.take(0, None)
    return feed.step(recipe).lower(state, {}, *arguments), sum(
        a.size * a.dtype.itemsize for a in jax.tree.leaves(state)
    )


def facts(lowered, state_bytes):
    from experiments.benchmarks.compiled_program import Program

    compiled = lowered.compile()
    memory, program = compiled.memory_analysis(), Program(compiled.as_text())
    lines = [line for lines in program.computations.values() for line in lines]
    return {
        "state": state_bytes,
        "donated": memory.alias_size_in_bytes,
        "needed": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        "convolutions": program.convolutions(),
        "to_the_host": sorted({line.opcode for line in lines} & {"infeed", "outfeed", "send", "recv"}),
        "calls": sorted(
            {
                line.rest.split('custom_call_target="')[1].split('"')[0]
                for line in lines
                if "custom_call_target" in line.rest
            }
        ),
        "float64": sum("f64[" in line.shape for line in lines),
        "loops": sum(line.opcode == "while" for line in lines),
    }


@pytest.fixture(scope="module")
def found():
    return tpu_chip.answer(__name__, "programs")


def test_every_cell_that_trains_is_compiled(found):
    assert sorted(found) == ["cifar_resnet8_30_epochs", "digits in bfloat16", "digits_40_epochs", "layer"]
    for name, program in found.items():
        assert program["needed"] < tpu_chip.TARGET.memory, name
        assert sum(program["convolutions"].values()) > 5, name


def test_a_dispatch_stays_on_the_chip(found):
    """Its steps are a loop in the program, the state's memory is used again, and nothing is sent to the host."""
    for name, program in found.items():
        assert program["to_the_host"] == [] and program["float64"] == 0, name
        assert not any("callback" in call or "recu_" in call for call in program["calls"]), name
        if name != "layer":
            assert program["loops"] >= 1, name
            assert program["donated"] >= 0.95 * program["state"], name


def test_in_bfloat16_every_convolution_reads_bfloat16(found):
    """Signs are not widened to float32 before their convolution."""
    assert set(found["digits in bfloat16"]["convolutions"]) == {"bf16"}
