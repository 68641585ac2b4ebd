"""Imports PyTorch files into workdirs by the command, and tests files that must be refused."""

import os
import pickle
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recu_jax import UserError, create_model
from recu_jax.commands import import_torch
from recu_jax.config import base_config
from recu_jax.data.augment import normalize
from recu_jax.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from recu_jax.pytorch.files import read
from recu_jax.training import loop
from recu_jax.training.checkpoint import read_best
from recu_jax.training.pretrained import import_torch_file
from tests.support import GOLDEN, commands
from tests.support.bad_files import OFFICIAL

torch = pytest.importorskip("torch", reason="pip install torch (on Python 3.11: torch==2.13.0 is a CPU build)")
BEST_TOP1 = 13.13


@pytest.mark.slow
def test_imported_variables_give_the_recorded_logits(imported, x64):
    step, record, variables = read_best(imported)
    assert step == 0
    assert record["config"] == {"model": "cifar_resnet20", "conv": "binary", "alpha": "learned"}
    assert record["imported"]["file"] == OFFICIAL.name and record["imported"]["epoch"] == 2
    assert record["imported"]["best_prec1"] == pytest.approx(BEST_TOP1)
    recorded = np.load(GOLDEN / "official_checkpoint_resnet20_eval.npz")
    x = normalize(recorded["images_nhwc_uint8"], IMAGENET_MEAN, IMAGENET_STD, jnp.float64)
    variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), variables)
    logits = jax.jit(create_model("cifar_resnet20", param_dtype=jnp.float64).apply)(variables, x)
    expected = recorded["eval_logits"]
    assert np.abs(logits - expected).max() < 1e-8 * np.abs(expected).max()


@pytest.mark.slow
def test_the_workdir_is_evaluated(imported, official, tmp_path):
    from experiments.benchmarks import torch_recu

    recorded = np.load(GOLDEN / "official_checkpoint_resnet20_eval.npz")
    images, labels = recorded["images_nhwc_uint8"], recorded["labels"]
    data = tmp_path / "images.npz"
    np.savez(data, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    common = [
        "--config=configs/cifar10.py", "--config.dataset=npz", f"--config.data_dir={data}", "--config.batch_size=32",
        "--config.eval_batch_size=32", "--config.dtype=float64", f"--workdir={imported}",
    ]  # fmt: skip
    result = commands.run("eval", *common)
    assert (result.returncode, result.stderr) == (0, "")

    # Compute the loss in PyTorch. The data set `npz` normalizes images by their own mean and standard deviation.
    model = torch_recu.build("cifar_resnet20").double().eval()
    model.load_state_dict(official["state_dict"], strict=False)
    x = (images / 255 - (images / 255).mean((0, 1, 2))) / (images / 255).std((0, 1, 2))
    with torch.no_grad():
        logits = model(torch.as_tensor(x.transpose(0, 3, 1, 2).copy()), 1.0)
    loss = torch.nn.functional.cross_entropy(logits, torch.as_tensor(labels).long()).item()
    top1 = 100 * (logits.argmax(1).numpy() == labels).mean()
    assert f"top-1 {top1:.2f}%" in result.stdout and f"loss {loss:.4f} on 32 test images" in result.stdout

    config = base_config()
    config.dataset, config.batch_size, config.eval_batch_size, config.num_devices = "digits", 32, 32, 1
    with pytest.raises(UserError, match=r"conv1/kernel.* \(3, 3, 3, 16\).*\(3, 3, 1, 16\)"):
        loop.evaluate(config, imported)
    config.model = "cifar_vgg_small"
    with pytest.raises(UserError, match="holds a run with model='cifar_resnet20'"):
        loop.evaluate(config, imported)


@pytest.mark.slow
def test_training_does_not_go_on_in_an_imported_workdir(imported):
    config = base_config()
    config.model, config.dataset, config.batch_size, config.num_devices = "digits_resnet8", "digits", 32, 1
    before = sorted(imported.rglob("*"))
    with pytest.raises(UserError, match="train in another --workdir with --config") as error:
        loop.train(config, imported)
    assert f"init_from={imported}" in str(error.value) and OFFICIAL.name in str(error.value)
    assert sorted(imported.rglob("*")) == before


def test_a_workdir_is_not_written_over(imported, refusal):
    before = sorted(imported.rglob("*"))
    line = refusal(import_torch.main, OFFICIAL, "--model=cifar_resnet20", f"--workdir={imported}")
    assert "already holds checkpoints" in line and sorted(imported.rglob("*")) == before


class Command:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    trace = tmp_path / "ran"
    command = Command(f"touch {trace}")
    torch.save({"state_dict": {"conv1.weight": command}}, tmp_path / "zip.pth")
    torch.save({"state_dict": command}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(command, protocol=2))
    result = commands.run("import-torch", tmp_path / "zip.pth", "--model=cifar_resnet20", f"--workdir={tmp_path / 'w'}")
    line = commands.the_line(result.stderr)
    assert result.returncode == 2
    assert "zip.pth carries code, posix.system" in line
    for name in ("zip.pth", "old.pth", "plain.pth"):
        with pytest.raises(UserError, match="not loaded: only tensors"):
            read(tmp_path / name)
    assert not trace.exists() and not (tmp_path / "w").exists()
    pickle.loads((tmp_path / "plain.pth").read_bytes())  # the file does run code if it is loaded
    assert trace.exists()


@pytest.mark.slow
def test_mistakes_get_one_line_and_leave_nothing(tmp_path, refusal):
    def refused(path, *options):
        line = refusal(import_torch.main, path, f"--workdir={tmp_path / 'w'}", *options)
        assert not (tmp_path / "w").exists()
        return line

    short = tmp_path / "short.pth.tar"
    short.write_bytes(OFFICIAL.read_bytes()[:100_000])
    assert "short.pth.tar is no whole file of torch.save" in refused(short, "--model=cifar_resnet20")
    line = refused(OFFICIAL, "--model=imagenet_resnet18")
    assert "missing " in line and " more; it fits cifar_resnet20" in line and len(line) < 500
    assert "did you mean 'cifar_resnet20'" in refused(OFFICIAL, "--model=cifar_resnet200")
    assert "--model" in refused(OFFICIAL)
    assert "--conv" in refused(OFFICIAL, "--model=cifar_resnet20", "--conv=real")
    line = refusal(import_torch.main, OFFICIAL, "--model=cifar_resnet20", f"--workdir={short}")
    assert "cannot be written to" in line and short.is_file()


def test_an_import_that_fails_half_way_leaves_nothing(tmp_path):
    """In this test, the system refuses to write more than 4096 bytes to a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for there in (False, True):
        if there:
            (tmp_path / "w").mkdir()
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        try:
            with pytest.raises(UserError, match="w cannot be written to: File too large; give another --workdir"):
                import_torch_file(OFFICIAL, "cifar_resnet20", tmp_path / "w")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list((tmp_path / "w").iterdir()) == [] if there else not (tmp_path / "w").exists()
