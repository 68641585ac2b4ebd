"""Checks that every command and config field takes paths as people type them."""

import inspect
import os
import pathlib
import re
from types import SimpleNamespace

import numpy as np
import pytest

from recu_jax import UserError, config, deploy, paths
from recu_jax.commands import export, export_torch, import_torch, predict, report
from recu_jax.config import fields
from recu_jax.deploy import check, trained
from recu_jax.training import loop, pretrained
from tests.support import bad_files, small_runs
from tests.support.commands import the_line

BUCKET = "it must be on this machine"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Sets the home folder and returns it. The working directory is another folder."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def test_the_tilde_is_the_home_folder(home):
    assert paths.local("~/runs") == f"{home}/runs" and paths.local("~") == str(home)
    assert paths.local("a~/~b") == "a~/~b" and paths.local(pathlib.Path("~/x")) == f"{home}/x"
    with pytest.raises(UserError, match=r"the path is '~nobody_here/x', and ~nobody_here has no home folder"):
        paths.local("~nobody_here/x")


@pytest.mark.parametrize(
    "address, way_out",
    [
        ("gs://bucket/run", r"mount the bucket \(gcsfuse BUCKET DIR\) and give DIR"),
        ("s3://bucket/run", r"mount the bucket \(mount-s3 BUCKET DIR\) and give DIR"),
        ("hdfs://host/run", "copy or mount it, and give the folder's path"),
        ("gs:/bucket/run", r"mount the bucket \(gcsfuse BUCKET DIR\) and give DIR"),
        ("file:///tmp/run", "give the folder's path"),
    ],
)
def test_addresses_are_refused(address, way_out):
    with pytest.raises(UserError, match=f"^--workdir is '{address}', and {BUCKET}; .*{way_out}$"):
        paths.local(address, "--workdir")
    assert paths.local("./gs:/run") == "./gs:/run"


@pytest.mark.parametrize("address", ["s3://bucket/run", "gs://bucket/runs/one"])
def test_a_run_may_be_in_a_bucket(address):
    assert paths.of_run(address) == paths.of_run(f"{address}/") == address
    assert paths.in_bucket(address) and not paths.in_bucket(address.replace("//", "/"))
    assert paths.of_run("./runs/one") == "./runs/one"


@pytest.mark.parametrize(
    "address", ["s3://bucket", "gs://bucket/", "s3://", "s3://bucket/../run", "s3://bucket//run", "gs:/b/run"]
)
def test_addresses_without_a_folder_are_refused(address):
    line = (
        f"^--workdir is '{re.escape(address)}', which names no folder in a bucket; give one, such as s3://BUCKET/run$"
    )
    with pytest.raises(UserError, match=line):
        paths.of_run(address, "--workdir")


COMMANDS = [
    (export.main, ["{}/run", "--out=x"], "{}/run holds no checkpoints"),
    (export.main, ["imported", "--dataset=digits", "--out={}/no/x"], "{}/no/x cannot be written"),
    (export.main, ["imported", "--dataset=npz", "--data_dir={}/x.npz", "--out=x"], "{}/x.npz"),
    (export_torch.main, ["{}/run", "x"], "{}/run holds no checkpoints"),
    (export_torch.main, ["run", "{}/file"], "{}/file is already there"),
    (predict.main, ["{}/x.recu", "x.png"], "{}/x.recu cannot be read"),
    (report.main, ["{}/run"], "{}/run holds no metrics.jsonl"),
]


@pytest.mark.parametrize("main, arguments, line", COMMANDS)
def test_every_command_expands_its_paths(home, main, arguments, line, capsys):
    (home / "file").touch()
    bad_files.workdir(pathlib.Path.cwd())

    def answer(where):
        with pytest.raises(SystemExit) as ended:
            main([a.format(where) for a in arguments])
        assert ended.value.code == 2
        return the_line(capsys.readouterr().err)

    assert line.format(home) in answer("~")
    assert BUCKET in answer("hdfs://bucket")
    assert os.listdir() == ["imported"]


@pytest.mark.parametrize("module", [export, export_torch, import_torch, predict, report])
def test_no_argument_is_forgotten(module):
    """Checks that arguments that the help calls FILE, DIR, IMAGE, WORKDIR or NETWORK have a type that expands `~`."""
    for argument in inspect.getsource(module).split("add_argument(")[1:]:
        is_run = any(f'metavar="{kind}"' in argument for kind in ("WORKDIR", "NETWORK"))
        assert is_run == ("type=run_path" in argument), argument
        is_path = any(f'metavar="{kind}"' in argument for kind in ("FILE", "DIR", "IMAGE"))
        assert is_path == ("type=local_path" in argument), argument


def test_every_path_of_the_config_is_expanded(home):
    changed = fields.with_local_paths(config.load("digits", **{name: f"~/{name}" for name in fields.PATHS}))
    assert {name: changed[name] for name in fields.PATHS} == {name: f"{home}/{name}" for name in fields.PATHS}
    texts = {f.name for of_section in fields.FIELDS.values() for f in of_section if f.kind is str}
    others = {"nonlinearity", "teacher_nonlinearity", "latent_optimizer", "freeze", "tracker"}
    assert texts - set(fields.PATHS) == others
    for name in fields.RUNS:
        assert fields.with_local_paths(config.load("digits", **{name: "s3://b/x"}))[name] == "s3://b/x"
    for name in set(fields.PATHS) - set(fields.RUNS):
        with pytest.raises(UserError, match=f"config.{name} is 's3://b/x', and {BUCKET}"):
            loop.train(config.load("digits", **{name: "s3://b/x"}), home / "run")
    (home / "mine.py").write_text("from recu_jax.config import base_config as get_config\n")
    assert config.load("~/mine.py").model == "cifar_resnet20"


def test_python_expands_as_the_commands_do(home):
    with pytest.raises(UserError, match=f"{home}/x.recu cannot be read"):
        deploy.load("~/x.recu")
    with pytest.raises(UserError, match=f"{home}/run holds no checkpoints"):
        loop.evaluate(config.load("digits"), "~/run")
    with pytest.raises(UserError, match=f"the workdir is 'hdfs://b/run', and {BUCKET}"):
        loop.train(config.load("digits"), "hdfs://b/run")
    assert os.listdir() == []


def test_files_that_python_writes_go_to_the_home_folder(home, monkeypatch):
    monkeypatch.setattr(trained, "network", lambda _: ({"model": "net"}, {"weights": np.zeros(2, "float32")}))
    best = trained.Trained({"dtype": "float32"}, {"params": {"weights": np.zeros(2)}}, None, None)
    assert trained.write(best, "~/x.recu").startswith(f"{home}/x.recu holds net in ")
    with pytest.raises(UserError, match=f"{home}/no/x.recu cannot be written"):
        trained.write(best, "~/no/x.recu")
    monkeypatch.setattr(check, "FlaxModel", lambda _: SimpleNamespace(predict=None))
    (home / "damaged.recu").touch()
    with pytest.raises(UserError, match=f"{home}/damaged.recu "):
        check.check(best, "~/damaged.recu")
    (home / "x.pth").touch()
    with pytest.raises(UserError, match=f"{home}/x.pth is already there"):
        export_torch.export("~/run", "~/x.pth")
    assert sorted(os.listdir(home)) == ["damaged.recu", "x.pth", "x.recu"] and os.listdir() == []


def test_a_workdir_of_imported_weights_goes_to_the_home_folder(home):
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file({"a.weight": np.zeros((2, 2), "float32")}, home / "x.safetensors")
    with pytest.raises(UserError, match=f"the workdir is 'hdfs://b/x', and {BUCKET}"):
        pretrained.import_torch_file("~/x.safetensors", "digits_resnet8", "hdfs://b/x")


@pytest.mark.slow
def test_a_run_of_the_home_folder(home):
    """All that a run reads and writes is in the home folder. No folder is called `~`."""
    r = np.random.default_rng(0)
    images, labels = r.integers(0, 256, (20, 8, 8, 1), np.uint8), np.arange(20) % 10
    np.savez(home / "x.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    given = {"dataset": "npz", "data_dir": "~/x.npz", "epochs": 1, "batch_size": 10, "model": "digits_resnet8"}
    c = small_runs.digits(**given, eval_batch_size=10, compilation_cache_dir="~/cache", warmup_epochs=0)
    loop.train(c, "~/one")
    c.init_from = "~/one"
    loop.train(c, "~/two")
    assert loop.evaluate(c, "~/two")["test_images"] == 20
    assert {"one", "two", "x.npz"} <= set(os.listdir(home)) and os.listdir() == []
