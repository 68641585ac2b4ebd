"""`recu summary` prints the cost of a model before it is trained."""

import json
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import ml_collections
from absl import app, flags

from recu_jax import data
from recu_jax.commands import config_flag
from recu_jax.commands.arguments import run
from recu_jax.config.fields import check_config, with_local_paths
from recu_jax.cost import ModelCost, model_cost, print_table
from recu_jax.ops import backend
from recu_jax.training.recipe import make_model

_CONFIG = config_flag.define()
_JSON = flags.DEFINE_bool("json", False, "print JSON")
_HELP = config_flag.Help(
    "recu summary --config=FILE [--config.FIELD=VALUE ...] [--json]",
    "Prints, layer by layer, 1-bit and 32-bit numbers, bytes, multiply-accumulates of one image and their precision,\n"
    "then the sums. No parameters are made. Data is read only for npz and image_folder, to learn their shape.",
    "recu summary --config=configs/imagenet.py",
    own_flags=("json",),
)


def config_cost(config: ml_collections.ConfigDict) -> ModelCost:
    """Computes the cost of a config's model for one image.

    Raises:
      UserError: a config field is invalid, or the data set must be read for its image shape and is missing.
    """
    check_config(config)
    config = with_local_paths(config)
    image_shape, classes = data.shape_and_classes(config.dataset, config.data_dir, config.image_size)
    return model_cost(make_model(config, classes), jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))


def main(argv: Sequence[str]) -> None:
    """Runs the command with the arguments `argv`."""
    app.run(_main, argv=["recu summary", *argv], flags_parser=lambda argv: config_flag.parse(argv, _HELP))


def _main(argv: Sequence[str]) -> None:
    del argv
    config = _CONFIG.value
    backend.set_xla_flags()
    if config.get("dtype") == "float64":
        jax.config.update("jax_enable_x64", True)
    cost = run(lambda: config_cost(config))
    if _JSON.value:
        print(json.dumps({"model": config.model, "dataset": config.dataset, **cost.as_json()}, indent=1))
    else:
        print_table(cost, f"{config.model} on {config.dataset}")
