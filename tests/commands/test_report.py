"""Tests `recu report`, for one run and for several."""

import pytest

from recu_jax.commands import report
from tests.support.written_runs import RECORDED, write_run


def test_the_command(tmp_path, refusal, capsys, monkeypatch):
    pytest.importorskip("plotly")
    workdir = write_run(tmp_path / "one")
    report.main([str(workdir)])
    assert capsys.readouterr().out == f"{workdir}/report.html\n"
    monkeypatch.chdir(tmp_path)
    report.main([str(workdir), str(RECORDED)])
    assert (tmp_path / "report.html").stat().st_size > 1e6
    report.main([str(workdir), "--out", "here.html"])
    assert (tmp_path / "here.html").exists()
    capsys.readouterr()
    for arguments, words in (
        ([tmp_path], "holds no metrics.jsonl with an epoch; give the workdir of a run"),
        ([workdir, "--out", "no/such/file.html"], "cannot be written"),
        ([], "the following arguments are required: WORKDIR"),
    ):
        assert words in refusal(report.main, *arguments)
