"""Makes steps from configs: with each binarizer and each family of models, and with the progress of an epoch."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from recu_jax import UserError, binarizers
from recu_jax.data.order import train_order
from recu_jax.models import OWN_NONLINEARITY
from recu_jax.training import step as train
from recu_jax.training.recipe import make_recipe
from tests.support.small_runs import dataset, digits

DEVICE = jax.local_devices()[:1]


def small(recipe):
    """Returns the recipe with a small network: 4 and 8 channels, or 4, 8 and 8 for VGG."""
    vgg = "pooled" in recipe.model.__dataclass_fields__
    fields = {"widths": (4, 8, 8), "pooled": (1,)} if vgg else {"stage_sizes": (1, 1), "widths": (4, 8)}
    return dataclasses.replace(recipe, model=recipe.model.clone(**fields))


def test_float64_needs_a_jax_that_has_it():
    with pytest.raises(
        UserError, match=r"^config\.dtype is 'float64'; JAX must be started with it: set JAX_ENABLE_X64=1"
    ):
        make_recipe(digits(dtype="float64"), dataset(32), steps_per_epoch=2)


@pytest.mark.parametrize("conv", ["binary", "binary_activations", "float"])
@pytest.mark.parametrize("of", ["weight", "activation"])
def test_which_steps_get_the_progress(of, conv):
    """Those in which an annealed binarizer is used."""
    table = binarizers.WEIGHTS if of == "weight" else binarizers.ACTIVATIONS
    name = next(name for name, binarizer in table.items() if binarizer.annealed)
    recipe = make_recipe(digits(conv=conv, **{f"{of}_binarizer": name}), dataset(32), steps_per_epoch=2)
    used = {"binary": True, "binary_activations": of == "activation", "float": False}
    assert (recipe.progress is not None) == used[conv]


FAMILIES = ("digits_resnet8", "cifar_resnet18", "cifar_vgg_small", "imagenet_resnet18", "react_resnet18")
WEIGHTS, ACTIVATIONS = list(binarizers.WEIGHTS), list(binarizers.ACTIVATIONS)
# COMBINATIONS has each family and each binarizer at least once.
LISTS = (FAMILIES, WEIGHTS, ACTIVATIONS)
COMBINATIONS = [tuple(names[i % len(names)] for names in LISTS) for i in range(2 * max(map(len, LISTS)))]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name,weights,activations",
    [pytest.param(*pair, marks=[pytest.mark.slow] * (i >= 3)) for i, pair in enumerate(COMBINATIONS)],
)
def test_any_pair_with_any_model_makes_a_step(name, weights, activations):
    """The step is traced and not compiled. Checks which parameters there are, and that a step keeps their shapes."""
    rprelu = {} if name in OWN_NONLINEARITY else {"nonlinearity": "rprelu"}
    c = digits(model=name, weight_binarizer=weights, activation_binarizer=activations, batch_size=16, **rprelu)
    data = dataset(32)
    recipe = small(make_recipe(c, data, steps_per_epoch=2))
    annealed = binarizers.WEIGHTS[weights].annealed or binarizers.ACTIVATIONS[activations].annealed
    state = train.state_shapes(recipe, data.train_images.shape[1:])
    count = collections.Counter(path[-1] for path in flatten_dict(state.params))
    assert count["alpha"] == count["slope"] >= 2
    assert count["shift"] == (count["alpha"] if activations in ("rsign", "adabin") else 0)
    assert (recipe.progress is not None) == annealed
    step = functools.partial(train.train_resident, recipe=recipe)
    after, metrics = jax.eval_shape(
        jax.vmap(step, (None, None, None, None, 0), out_axes=None, axis_name="devices"),
        state, {}, data.train_images, data.train_labels, jax.ShapeDtypeStruct((1, 1, 16), jnp.int32),
    )  # fmt: skip
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state) and metrics["loss"].shape == (1,)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_step_sees_the_progress_of_its_epoch():
    """There are two epochs of two steps. The third step begins the second epoch: half of the training is over."""
    c = digits(
        weight_binarizer="libra", activation_binarizer="ede", dtype="float64", crop_padding=0, flip=False,
        batch_size=16, epochs=2, warmup_epochs=0, weight_decay=0.0, momentum=0.0,
    )  # fmt: skip
    data = dataset(8, 1)
    recipe = make_recipe(c, data, steps_per_epoch=2)
    recipe = dataclasses.replace(recipe, model=recipe.model.clone(stage_sizes=(1,), widths=(4,)))
    np.testing.assert_array_equal([recipe.progress(s) for s in range(4)], [0, 0, 0.5, 0.5])
    state = jax.device_get(train.create_state(recipe, 0, (8, 8, 1))).replace(step=np.int32(2))
    step = train.parallel(
        functools.partial(train.train_resident, recipe=recipe), DEVICE, mapped=(False,) * 4 + (True,), donate=False
    )
    indices = train_order(0, 1, 37, 16)[:1]
    after, _ = step(*train.replicate((state, {}, data.train_images, data.train_labels), DEVICE), indices[None])

    x = (data.train_images[indices[0]] / 255 - 0.5) / 0.25

    @jax.jit
    def gradient(params, progress):
        def loss(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits, _ = recipe.model.apply(
                variables, x, tau=recipe.tau(2), train=True, progress=progress, mutable=["batch_stats"]
            )
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), data.train_labels[indices[0]][:, None], 1).mean()

        return jax.grad(loss)(params)

    kernel = lambda tree: np.asarray(tree["layer1_0"]["conv2"]["kernel"])  # noqa: E731
    # The optimizer counts its own steps. This is its first, so its rate is that of step 0.
    moved = (kernel(state.params) - kernel(after.params)) / recipe.learning_rate(0)
    np.testing.assert_allclose(moved, kernel(gradient(state.params, 0.5)), rtol=1e-6, atol=1e-9)
    assert abs(moved - kernel(gradient(state.params, 0.0))).max() > 1e-3 * abs(moved).max()
