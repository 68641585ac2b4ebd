"""The command that says what a model costs, before it is trained:

    python -m recu_jax.summary --config=configs/digits.py [--config.FIELD=VALUE ...] [--json]

A line per layer: 1-bit and 32-bit numbers, bytes, multiply-accumulates of one image and their precision; then the sums.
`--json` prints the same as JSON. `recu_jax.cost.counts` says what counts as 1 bit and what as 32; `recu_jax.model_cost`
does it for any Flax model. No parameters are made, and no data is read, except for `npz` and `image_folder`, whose
images and classes nobody knows before.
"""

import json

import jax
import jax.numpy as jnp
import ml_collections
from absl import app, flags

from recu_jax import backend, config_flag, data
from recu_jax.command_line import run
from recu_jax.config import check_config
from recu_jax.cost import ModelCost, model_cost, print_table
from recu_jax.data import Dataset
from recu_jax.recipe import make_model

_CONFIG = config_flag.define()
_JSON = flags.DEFINE_bool("json", False, "Print JSON.")


def config_cost(config: ml_collections.ConfigDict) -> ModelCost:
    """What the model of a config costs for one image.

    Raises:
      UserError: a field breaks its rule, or the data set is not there where it must be asked.
    """
    check_config(config)
    if config.dataset in data.KNOWN_SHAPES:
        image_shape, classes = data.KNOWN_SHAPES[config.dataset]
    else:
        dataset = data.load(config.dataset, config.data_dir, config.num_workers)
        image_shape = dataset.test_images.shape[1:] if isinstance(dataset, Dataset) else None
        classes = dataset.num_classes
    image = jax.ShapeDtypeStruct((1, *(image_shape or (config.image_size, config.image_size, 3))), jnp.float32)
    return model_cost(make_model(config, classes), image)


def main(argv: list[str]) -> None:
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


if __name__ == "__main__":
    app.run(main, flags_parser=config_flag.parse)
