"""PyTorch files to workdirs and back: the official checkpoint, and files that must be refused."""

import json
import os
import pathlib
import pickle
import resource
import subprocess
import sys

import golden_values as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recu_jax import UserError, create_model, loop, torch_export, torch_import
from recu_jax.checkpoint import read_best
from recu_jax.config import base_config
from recu_jax.data.augment import normalize
from recu_jax.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from recu_jax.torch_files import read

torch = pytest.importorskip("torch", reason="pip install torch (on Python 3.11: torch==2.13.0 is a CPU build)")

ROOT = pathlib.Path(__file__).resolve().parents[1]
OFFICIAL = golden.FOLDER / "official_checkpoint_resnet20.pth.tar"
BEST_TOP1 = 13.13


def run(module, *arguments):
    env = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", f"recu_jax.{module}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


def the_line(stderr):
    assert stderr.startswith("error: ") and stderr.count("\n") == 1 and stderr.endswith("\n"), stderr
    return stderr


@pytest.fixture
def refusal(capsys):
    """Calls a command in this process, which must refuse with one line; gives that line."""

    def call(main, *arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        assert ended.value.code == 2
        return the_line(capsys.readouterr().err)

    return call


@pytest.fixture(scope="module")
def official():
    return torch.load(OFFICIAL, weights_only=True, map_location="cpu")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported") / "workdir"
    result = run("torch_import", OFFICIAL, "--model=cifar_resnet20", f"--workdir={folder}")
    assert (result.returncode, result.stderr) == (0, "")
    assert "cifar_resnet20" in result.stdout and "epoch 2, best top-1 13.13%" in result.stdout
    return folder


def test_imported_variables_give_the_recorded_logits(workdir, x64):
    step, record, variables = read_best(workdir)
    assert step == 0
    assert record["config"] == {"model": "cifar_resnet20", "conv": "binary", "scale": "learned"}
    assert record["imported"]["file"] == OFFICIAL.name and record["imported"]["epoch"] == 2
    assert record["imported"]["best_prec1"] == pytest.approx(BEST_TOP1)
    recorded = np.load(golden.FOLDER / "official_checkpoint_resnet20_eval.npz")
    x = normalize(recorded["images_nhwc_uint8"], IMAGENET_MEAN, IMAGENET_STD, jnp.float64)
    variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), variables)
    logits = jax.jit(create_model("cifar_resnet20", param_dtype=jnp.float64).apply)(variables, x)
    expected = recorded["eval_logits"]
    assert np.abs(logits - expected).max() < 1e-8 * np.abs(expected).max()


def test_the_workdir_is_evaluated(workdir, official, tmp_path):
    import torch_recu

    recorded = np.load(golden.FOLDER / "official_checkpoint_resnet20_eval.npz")
    images, labels = recorded["images_nhwc_uint8"], recorded["labels"]
    data = tmp_path / "images.npz"
    np.savez(data, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    common = [
        "--config=configs/cifar10.py", "--config.dataset=npz", f"--config.data_dir={data}", "--config.batch_size=32",
        "--config.eval_batch_size=32", "--config.dtype=float64", f"--workdir={workdir}",
    ]  # fmt: skip
    result = run("main", *common, "--mode=eval")
    assert (result.returncode, result.stderr) == (0, "")

    # What PyTorch says, on images normalised as data set npz does it.
    model = torch_recu.build("cifar_resnet20").double().eval()
    model.load_state_dict(official["state_dict"], strict=False)
    x = (images / 255 - (images / 255).mean((0, 1, 2))) / (images / 255).std((0, 1, 2))
    with torch.no_grad():
        logits = model(torch.as_tensor(x.transpose(0, 3, 1, 2).copy()), 1.0)
    loss = torch.nn.functional.cross_entropy(logits, torch.as_tensor(labels).long()).item()
    top1 = 100 * (logits.argmax(1).numpy() == labels).mean()
    assert f"top-1 {top1:.2f}%" in result.stdout and f"loss {loss:.4f} on 32 images" in result.stdout

    config = base_config()
    config.dataset, config.batch_size, config.eval_batch_size, config.num_devices = "digits", 32, 32, 1
    with pytest.raises(UserError, match=r"conv1/kernel.* \(3, 3, 3, 16\).*\(3, 3, 1, 16\)"):
        loop.evaluate(config, workdir)
    config.model = "cifar_vgg_small"
    with pytest.raises(UserError, match="holds a run with model='cifar_resnet20'"):
        loop.evaluate(config, workdir)


def test_training_does_not_go_on_in_an_imported_workdir(workdir):
    config = base_config()
    config.model, config.dataset, config.batch_size, config.num_devices = "digits_resnet8", "digits", 32, 1
    before = sorted(workdir.rglob("*"))
    with pytest.raises(UserError, match="train in another --workdir with --config") as error:
        loop.train(config, workdir)
    assert f"init_from={workdir}" in str(error.value) and OFFICIAL.name in str(error.value)
    assert sorted(workdir.rglob("*")) == before


def test_a_workdir_is_not_written_over(workdir, refusal):
    before = sorted(workdir.rglob("*"))
    line = refusal(torch_import.main, OFFICIAL, "--model=cifar_resnet20", f"--workdir={workdir}")
    assert "already holds checkpoints" in line and sorted(workdir.rglob("*")) == before


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
    result = run("torch_import", tmp_path / "zip.pth", "--model=cifar_resnet20", f"--workdir={tmp_path / 'w'}")
    line = the_line(result.stderr)
    assert result.returncode == 2
    assert "zip.pth carries code, posix.system" in line
    for name in ("zip.pth", "old.pth", "plain.pth"):
        with pytest.raises(UserError, match="not loaded: only tensors"):
            read(tmp_path / name)
    assert not trace.exists() and not (tmp_path / "w").exists()
    pickle.loads((tmp_path / "plain.pth").read_bytes())  # the trap works
    assert trace.exists()


def test_mistakes_get_one_line_and_leave_nothing(tmp_path, refusal):
    def refused(path, *options):
        line = refusal(torch_import.main, path, f"--workdir={tmp_path / 'w'}", *options)
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
    line = refusal(torch_import.main, OFFICIAL, "--model=cifar_resnet20", f"--workdir={short}")
    assert "cannot be written to" in line and short.is_file()


def test_an_import_that_fails_half_way_leaves_nothing(tmp_path):
    """The system refuses to write more than a few bytes into a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for there in (False, True):
        if there:
            (tmp_path / "w").mkdir()
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        try:
            with pytest.raises(UserError, match="w cannot be written to: File too large; give another --workdir"):
                torch_import.import_file(OFFICIAL, "cifar_resnet20", tmp_path / "w")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list((tmp_path / "w").iterdir()) == [] if there else not (tmp_path / "w").exists()


def test_other_files_that_are_refused(tmp_path, official):
    def refused(content, message, name="cifar_resnet20"):
        path = tmp_path / "file.pth"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(UserError, match=message) as error:
            torch_import.load_variables(path, name)
        assert "\n" not in str(error.value) and str(path) in str(error.value)

    state_dict = dict(official["state_dict"])
    refused(b"", "no whole file")
    refused(b"these are not the weights you look for\n" * 20, "no whole file")
    refused([torch.zeros(3)], "holds a list")
    refused({}, "empty state_dict")
    refused({"epoch": 3, "args": "none"}, "entry 'epoch' is a int, not a tensor")
    refused({"state_dict": {**state_dict, "bn1.bias": [0.0] * 16}}, "entry 'bn1.bias' is a list, not a tensor")
    refused({**state_dict, "bn1.bias": torch.zeros(16).to_sparse()}, "'bn1.bias' is a tensor without plain")
    refused({**state_dict, "bn1.bias": torch.zeros(17)}, r"misshapen bn1.bias \(17,\), should be \(16,\)")
    refused({f"net.{k}": v for k, v in state_dict.items()}, "and 235 more; it fits no model of this library")
    for path, message in ((tmp_path / "none.pth", "does not exist"), (tmp_path, "cannot be read: Is a directory")):
        with pytest.raises(UserError, match=message):
            read(path)
    with pytest.raises(UserError, match="did you mean 'cifar_resnet20'"):
        torch_import.load_variables(OFFICIAL, "cifar_resnet200")


def test_wrappers_bare_state_dicts_and_half_precision(tmp_path, official):
    expected = torch_import.load_variables(OFFICIAL, "cifar_resnet20")
    path = tmp_path / "file.pth"
    for prefix in ("", "module.", "_orig_mod.", "module._orig_mod."):
        torch.save({prefix + k: v for k, v in official["state_dict"].items()}, path)
        got = torch_import.load_variables(path, "cifar_resnet20")
        jax.tree.map(np.testing.assert_array_equal, got, expected)
    torch.save({"epoch": 1, "model": {k: v.bfloat16() for k, v in official["state_dict"].items()}}, path)
    got = torch_import.load_variables(path, "cifar_resnet20")
    assert {a.dtype for a in jax.tree.leaves(got)} == {np.dtype("float32")}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8), got, expected)


def test_weights_of_a_real_twin(tmp_path, official):
    path = tmp_path / "twin.pth"
    torch.save({k: v for k, v in official["state_dict"].items() if not k.endswith(("alpha", "tau"))}, path)
    with pytest.raises(UserError, match="it fits cifar_resnet20 with conv float"):
        torch_import.load_variables(path, "cifar_resnet20", conv="binary")
    record = torch_import.import_file(path, "cifar_resnet20", tmp_path / "w", conv="float")
    assert record["conv"] == "float" and record["epoch"] is None
    assert read_best(tmp_path / "w")[1]["config"]["conv"] == "float"


def test_what_is_exported_is_what_the_official_code_writes(workdir, official, tmp_path, refusal):
    path = tmp_path / "exported.pth.tar"
    result = run("torch_export", workdir, path)
    assert (result.returncode, result.stderr) == (0, "") and str(path) in result.stdout
    exported = torch.load(path, weights_only=True)
    assert exported.keys() == official.keys() - {"optimizer", "lr_scheduler"}
    assert exported["epoch"] == 2 and exported["best_prec1"] == pytest.approx(BEST_TOP1)
    assert list(exported["state_dict"]) == list(official["state_dict"])
    for key, tensor in official["state_dict"].items():
        ours = exported["state_dict"][key]
        assert (ours.shape, ours.dtype) == (tensor.shape, tensor.dtype), key
        if not key.endswith(("tau", "num_batches_tracked")):
            assert torch.equal(ours, tensor), key
    assert list(tmp_path.iterdir()) == [path]
    assert "already there" in refusal(torch_export.main, workdir, path)
    assert "cannot be written" in refusal(torch_export.main, workdir, tmp_path / "no" / "folder.pth")


def test_a_saved_model_loads_strictly_in_pytorch(tmp_path):
    import torch_recu

    filled = golden.state_dict(golden.load("cifar_resnet20")[0])
    variables = torch_import.from_torch("cifar_resnet20", {k: v.astype(np.float32) for k, v in filled.items()})
    torch_import.save_torch(tmp_path / "m.pth.tar", "cifar_resnet20", variables, 7, 55.5, tau=0.875, steps=99)
    saved = torch.load(tmp_path / "m.pth.tar", weights_only=True)
    assert (saved["epoch"], saved["model"], saved["best_prec1"]) == (7, "cifar_resnet20", 55.5)
    model = torch_recu.build("cifar_resnet20")
    for module in model.modules():
        if isinstance(module, torch_recu.BinaryConv2d):
            module.register_buffer("tau", torch.zeros(1))
    model.load_state_dict(saved["state_dict"], strict=True)
    assert model.bn1.num_batches_tracked == 99 and model.layer1[0].conv1.tau == 0.875
    for key, array in filled.items():
        np.testing.assert_array_equal(model.state_dict()[key].numpy(), array.astype(np.float32), err_msg=key)

    with pytest.raises(UserError, match=r"missing layer1\.0\.conv1\.alpha"):
        del variables["params"]["layer1_0"]["conv1"]["alpha"]
        torch_import.save_torch(tmp_path / "n.pth.tar", "cifar_resnet20", variables)


def test_a_run_with_another_scale_is_not_exported(workdir, tmp_path):
    # Only the record decides, so that no run is needed.
    copy = tmp_path / "w"
    subprocess.run(["cp", "-r", workdir, copy], check=True)
    (record,) = copy.glob("checkpoints/0/record/metadata")
    changed = json.loads(record.read_text())
    changed["config"]["scale"] = "mean"
    del changed["digests"]  # as in a record that was written so
    record.write_text(json.dumps(changed))
    with pytest.raises(UserError, match="scale='mean'"):
        torch_export.export(copy, tmp_path / "m.pth")


def test_without_pytorch_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="pip install torch"):
        read(OFFICIAL)
