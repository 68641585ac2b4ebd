"""Which configs may continue a run."""

import pytest

from recu_jax import UserError
from recu_jax.config import base_config, check_resumable, plain

YOUNGER = ("tau_schedule", "laplace_b", "centre", "diagnostics", "report")


def test_a_run_from_before_a_field_goes_on_with_its_default():
    config = base_config()
    saved = {k: v for k, v in plain(config).items() if k not in YOUNGER}
    check_resumable(saved, config, "run")
    config.diagnostics = config.report = False
    check_resumable(saved, config, "run")
    config.tau_schedule = "linear"
    with pytest.raises(UserError, match="tau_schedule was 'exponential' and is 'linear'"):
        check_resumable(saved, config, "run")
