"""How images reach the devices: a data set that lives there, or batches that stream in while steps run.

Both feeds look the same to a run: `step` makes the training step, `take` gives the arguments of the next dispatch, and
`evaluator` makes a function of the state.
"""

from collections.abc import Sequence

import jax
import ml_collections

from recu_jax.data import Dataset, Photos
from recu_jax.errors import UserError
from recu_jax.feed.resident import ResidentFeed
from recu_jax.feed.streaming import StreamFeed

Feed = ResidentFeed | StreamFeed


def make_feed(config: ml_collections.ConfigDict, dataset: Dataset | Photos, devices: Sequence[jax.Device]) -> Feed:
    """The feed for a data set.

    Raises:
      UserError: the batch is larger than the training set.
    """
    images = len(dataset.train_images if isinstance(dataset, Dataset) else dataset.train)
    if config.batch_size > images:
        raise UserError(f"config.batch_size is {config.batch_size}; {config.dataset} has only {images} training images")
    if isinstance(dataset, Dataset):
        return ResidentFeed(config, dataset, devices)
    return StreamFeed(config, dataset, devices)
