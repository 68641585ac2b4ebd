"""Faults that no test noticed once, each with the test that now fails: `python -m tests.mutation --faults`.

They are subtler than the mutants of `mutants.py`: each is a mistake that a person could make.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault: a text in a module, and a wrong text that takes its place.

    Attributes:
        what: what is wrong.
        module: path of the module within recu_jax/.
        right, wrong: the text in the module, and what takes its place.
        test: the test that fails, within tests/.
    """

    what: str
    module: str
    right: str
    wrong: str
    test: str


_IMAGES = "training/test_step_images.py::"

FAULTS = (
    Fault(
        "every step crops and flips alike",
        "training/gradients.py",
        "jax.random.fold_in(recipe.augment_key, step)",
        "recipe.augment_key",
        f"{_IMAGES}test_an_image_is_cropped_and_mirrored_by_seed_step_and_position",
    ),
    Fault(
        "running statistics are not averaged over devices",
        "training/step.py",
        "grads, batch_stats, loss, top1 = lax.pmean((grads, batch_stats, loss, top1), AXIS)",
        "grads, loss, top1 = lax.pmean((grads, loss, top1), AXIS)",
        f"{_IMAGES}test_running_statistics_are_the_mean_over_devices_on_each_of_them",
    ),
    Fault(
        "checkpoints are sorted by name",
        "training/checkpoint/reading.py",
        "key=lambda s: s.step",
        "key=lambda s: str(s.step)",
        "training/test_checkpoint.py::test_steps_are_sorted_as_numbers",
    ),
    Fault(
        "flip ignores augment",
        "training/recipe.py",
        "flip=config.flip and on_device",
        "flip=config.flip",
        f"{_IMAGES}test_without_augmentation_a_step_sees_the_image_itself",
    ),
    Fault(
        "the second epoch of seed 0 is the first of seed 1",
        "data/order.py",
        "default_rng([seed, epoch])",
        "default_rng(seed + epoch)",
        "data/test_order.py::test_no_two_of_seed_and_epoch_share_an_order",
    ),
    Fault(
        "a dense layer normalizes over tokens",
        "layers/binary.py",
        "self._promoted(inputs, parameter), 1, progress, train",
        "self._promoted(inputs, parameter), inputs.ndim - 1, progress, train",
        "test_layers.py::test_a_dense_layer_normalizes_each_token_by_itself",
    ),
    Fault(
        "a dense layer does not center its kernel",
        "layers/evaluation.py",
        "binarizer(kernel, tau, progress)",
        "(binarizer if kernel.ndim > 2 else type(binarizer)(center=False))(kernel, tau, progress)",
        "test_layers.py::test_a_dense_layer_takes_the_signs_of_centered_weights",
    ),
    Fault(
        "an NNX layer remembers the tau of a call",
        "nnx.py",
        "        if self.last_tau is None:\n            return",
        "        self.tau = self.tau if tau is NOT_GIVEN or tau is None else nnx.data(nnx.Param(jnp.asarray(tau)))\n"
        "        if self.last_tau is None:\n            return",
        "test_nnx.py::test_a_call_without_tau_does_not_remember_the_tau_of_the_call_before",
    ),
    Fault(
        "the state is kept during a step",
        "training/feed/resident.py",
        "mapped, donate=True)",
        "mapped, donate=False)",
        f"{_IMAGES}test_a_step_frees_the_memory_of_the_state_before_it",
    ),
    Fault(
        "decay reaches the shift of RSign",
        "optimizers/masks.py",
        ' and path[-1] not in ("shift", "spread")',
        "",
        "test_optimizers.py::test_decay_reaches_everything_unless_told_otherwise_and_never_a_shift",
    ),
    Fault(
        "decay leaves out norms by default",
        "optimizers/masks.py",
        'groups: str = "all") -> dict',
        'groups: str = "conv_and_linear") -> dict',
        "test_optimizers.py::test_decay_reaches_everything_unless_told_otherwise_and_never_a_shift",
    ),
    Fault(
        "Bop takes kernels of real weights",
        "training/recipe.py",
        " for layer in found if layer.binary_weights}",
        " for layer in found}",
        "test_optimizers.py::test_bop_leaves_kernels_of_real_weights_to_the_other_optimizer",
    ),
    Fault(
        "padding of an evaluation batch is multiplied by 0",
        "training/step.py",
        "jnp.where(weights > 0, v * weights, 0).sum()",
        "(v * weights).sum()",
        f"{_IMAGES}test_padding_of_an_evaluation_batch_may_give_nan",
    ),
    Fault(
        "the counters of a stream grow over epochs",
        "training/feed/streaming.py",
        "        self._waited, self._skipped = 0.0, 0\n        return metrics",
        "        return metrics",
        "training/test_feed.py::test_the_counters_of_a_stream_are_those_of_one_epoch",
    ),
    Fault(
        "augmentation has the key of the initialization",
        "training/recipe.py",
        "jax.random.split(jax.random.key(config.seed))[1]",
        "jax.random.split(jax.random.key(config.seed))[0]",
        f"{_IMAGES}test_an_image_is_cropped_and_mirrored_by_seed_step_and_position",
    ),
    Fault(
        "the initialization has the key that the others are made of",
        "training/step.py",
        "jax.random.split(jax.random.key(seed))[0]",
        "jax.random.key(seed)",
        f"{_IMAGES}test_initial_parameters_are_those_of_the_seeds_first_key",
    ),
    Fault(
        "float64 is cast before its signs are packed",
        "ops/packed.py",
        "x = jnp.where(x >= 0, jnp.float32(1), jnp.float32(-1))",
        "x = x.astype(jnp.float32)",
        "ops/test_packed.py::test_a_tiny_negative_number_is_negative",
    ),
    Fault(
        "the cost of shard_map is that of one device",
        "cost/program.py",
        'params["mesh"].size if primitive == "shard_map" else 1',
        "1",
        "test_cost.py::test_all_devices_of_a_shard_map_are_counted",
    ),
    Fault(
        "in_features of an NNX layer are those of a group",
        "nnx.py",
        "self.in_features, self.out_features = in_features,",
        "self.in_features, self.out_features = kernel_shape[-2],",
        "test_nnx.py::test_in_features_counts_the_channels_of_all_groups",
    ),
    Fault(
        "Bop's state changes its dtypes",
        "optimizers/sign_flips.py",
        "((1 - rate) * m + rate * g).astype(m.dtype)",
        "((1 - rate) * m + rate * g)",
        "test_optimizers.py::test_the_state_of_bop_keeps_its_dtypes",
    ),
    Fault(
        "alpha's gradient is summed in bfloat16",
        "ops/scaled_conv.py",
        "dkernel.astype(alpha.dtype) * kernel.astype(alpha.dtype)",
        "dkernel * kernel",
        "ops/test_scaled_conv.py::test_the_gradient_of_alpha_is_summed_in_the_dtype_of_alpha",
    ),
)
