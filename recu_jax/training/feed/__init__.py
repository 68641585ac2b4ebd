"""Feeds bring images to the devices.

`ResidentFeed` keeps the whole data set in the memory of every device. `StreamFeed` sends each batch to the devices
while they run the previous step. Both have the same methods. Among them, `step` makes the training step, `take` returns
the number of steps and the arguments of the next dispatch, and `evaluator` makes the function that evaluates a state.
"""

from collections.abc import Sequence

import jax
import ml_collections

from recu_jax.data import Dataset, Photos
from recu_jax.errors import UserError
from recu_jax.training.feed.resident import ResidentFeed
from recu_jax.training.feed.streaming import StreamFeed

Feed = ResidentFeed | StreamFeed


def make_feed(config: ml_collections.ConfigDict, dataset: Dataset | Photos, devices: Sequence[jax.Device]) -> Feed:
    """Makes the feed for a data set: a `ResidentFeed` for a `Dataset`, a `StreamFeed` for `Photos`.

    Raises:
      UserError: the batch is larger than the training set, or a package that `Photos` need is not installed.
    """
    if 0 < dataset.train_count < config.batch_size:  # 0 training images: the feed is for an evaluation
        held = f", {config.held_out} are held out" if config.held_out else ""
        raise UserError(
            f"config.batch_size is {config.batch_size}; {config.dataset} has only {dataset.train_count} training "
            f"images{held}; use smaller batches"
        )
    if isinstance(dataset, Dataset):
        return ResidentFeed(config, dataset, devices)
    return StreamFeed(config, dataset, devices)
