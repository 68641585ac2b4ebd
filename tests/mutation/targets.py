"""Lists which modules are mutated, and which tests run for the mutants of each."""

import fnmatch

from tests.support import ROOT

# A room is a group of modules that get one score. By room: patterns of its modules within recu_jax/, and patterns of
# the test files within tests/ that cover it. A module belongs to the first room that fits.
ROOMS = {
    "method": (
        ("functional/*", "binarizers/*", "layers/*"),
        ("test_functional", "binarizers/*", "test_layers", "test_golden", "test_every_binarizer", "test_nan",
         "test_transformations", "test_messages", "test_binary_layer", "test_models", "test_drop_in",
         "deploy/test_pack"),
    ),
    "nnx": (("nnx",), ("test_nnx", "test_every_binarizer", "test_nan", "test_binary_layer")),
    "tau": (("tau",), ("test_tau", "test_nnx", "test_every_binarizer")),
    "schedules": (("schedules",), ("test_schedules", "training/test_recipe")),
    "losses": (("losses",), ("test_losses", "training/test_gradients")),
    "optimizers": (("optimizers/*",), ("test_optimizers", "test_ovsw", "training/test_recipe")),
    "step": (
        ("training/step", "training/gradients"),
        ("training/test_step", "training/test_step_images", "training/test_gradients", "training/test_feed",
         "training/test_run", "training/test_loop"),
    ),
    "checkpoint": (
        ("training/checkpoint/*",),
        ("training/test_checkpoint*", "training/test_loop", "training/test_run", "training/test_pretrained"),
    ),
    "training": (
        ("training/epoch", "training/recipe", "training/feed/*"),
        ("training/test_epoch", "training/test_recipe", "training/test_feed", "training/test_step_images",
         "training/test_step", "training/test_loop", "training/test_run", "training/test_recorder",
         "test_optimizers", "test_diagnostics_in_runs"),
    ),
    "data": (
        ("data/order", "data/augment", "data/transform", "data/batch"),
        ("data/test_order", "data/test_augment", "data/test_transform", "data/test_batch", "data/test_stream",
         "data/test_images", "data/test_workers", "training/test_feed", "training/test_step_images"),
    ),
    "diagnostics": (("diagnostics/*",), ("diagnostics/*", "test_diagnostics_in_runs")),
    "ops": (
        ("ops/*",),
        ("ops/*", "test_layers", "test_transformations", "test_models", "deploy/test_runtime"),
    ),
    "deploy": (
        ("deploy/fold", "deploy/build", "deploy/container"),
        ("deploy/test_fold", "deploy/test_build", "deploy/test_container", "deploy/test_families", "deploy/test_graph",
         "deploy/test_model", "deploy/test_runtime", "deploy/test_fields"),
    ),
    "cost": (("cost/*",), ("test_cost",)),
}  # fmt: skip

# These tests read the text of all modules. So they run for each mutant, whatever code they execute.
OF_ALL = ("tests/test_layout.py",)


def modules() -> list[str]:
    """Returns the paths of all modules that are mutated, relative to the root of the repository."""
    files = [file.relative_to(ROOT).as_posix() for file in sorted((ROOT / "recu_jax").rglob("*.py"))]
    return [file for file in files if room(file)]


def room(module: str) -> str | None:
    """Returns the room that a module's path belongs to, or None."""
    name = module.removeprefix("recu_jax/").removesuffix(".py")
    return next((room for room, (patterns, _) in ROOMS.items() if _fits(name, patterns)), None)


def test_files(room: str) -> list[str]:
    """Returns the paths of the test files of a room, relative to the root of the repository."""
    files = [file.relative_to(ROOT).as_posix() for file in sorted((ROOT / "tests").rglob("test_*.py"))]
    _, patterns = ROOMS[room]
    return [f for f in files if f in OF_ALL or _fits(f.removeprefix("tests/").removesuffix(".py"), patterns)]


def _fits(name, patterns):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
