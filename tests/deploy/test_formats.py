"""Every format that `recu export` offers writes a file and has it run, or says which package is missing."""

import numpy as np
import pytest

from recu_jax import UserError
from recu_jax.deploy.formats import FORMATS


def test_the_first_format_is_the_default_one():
    assert next(iter(FORMATS)) == "recu" and len(FORMATS) >= 3


@pytest.mark.parametrize("name", FORMATS)
def test_a_path_that_cannot_be_written_is_a_line(name, tmp_path):
    with pytest.raises((UserError, OSError, ValueError)):
        FORMATS[name].write(tmp_path / "no" / "such" / "folder", {"format": "x"}, {"a": np.zeros(1, np.float32)})
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("name", FORMATS)
def test_a_text_is_no_file_of_any_format(name, tmp_path):
    (tmp_path / "text").write_text("no network\n")
    with pytest.raises(Exception, match=r"."):
        FORMATS[name].predictor(tmp_path / "text")
