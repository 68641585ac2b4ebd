"""Tests what each backend needs: flags, a folder of compiled programs, steps per dispatch."""

import jax
import pytest

from recu_jax import UserError
from recu_jax.ops import backend


@pytest.mark.parametrize(
    "version,before,after",
    [
        ("0.10.1", "", "--xla_cpu_experimental_ynn_fusion_type="),
        ("0.12.0.dev3", "--other=1", "--other=1 --xla_cpu_experimental_ynn_fusion_type="),
        ("0.12.0", "--xla_cpu_experimental_ynn_fusion_type=dot", "--xla_cpu_experimental_ynn_fusion_type=dot"),
        ("0.7.2", "--other=1", "--other=1"),  # this version does not know the flag, and would abort
    ],
)
def test_the_flag_is_set_once_and_only_where_it_is_known(version, before, after, monkeypatch):
    monkeypatch.setattr(backend.importlib.metadata, "version", lambda package: version)
    monkeypatch.setenv("XLA_FLAGS", before)
    for _ in range(2):
        backend.set_xla_flags()
        assert backend.os.environ["XLA_FLAGS"] == after


def test_compiled_programs_are_kept_in_a_folder_that_can_be_written(tmp_path):
    options = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, option) for option in options]
    try:
        backend.keep_compiled_programs(None)
        assert [getattr(jax.config, option) for option in options] == before
        backend.keep_compiled_programs(str(tmp_path / "a" / "cache"))
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "a" / "cache")
        assert list((tmp_path / "a" / "cache").iterdir()) == []
    finally:
        for option, value in zip(options, before, strict=True):
            jax.config.update(option, value)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"compilation_cache_dir=.*file cannot be written to: .*; give another folder"):
        backend.keep_compiled_programs(str(tmp_path / "file"))


def test_one_step_a_dispatch_on_cpus_and_many_elsewhere():
    assert [backend.steps_per_dispatch(100, platform) for platform in ("cpu", "gpu", "tpu")] == [1, 50, 50]
    assert backend.steps_per_dispatch(195, "gpu") == 39  # five calls of one length
    assert backend.steps_per_dispatch(101, "gpu") == 64  # 101 is a prime
    assert [backend.steps_per_dispatch(10, platform) for platform in ("cpu", "gpu", "tpu")] == [1, 10, 10]
