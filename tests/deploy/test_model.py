"""Tests a loaded network: which packages it needs, and which images it refuses."""

import subprocess
import sys

import numpy as np
import pytest

from recu_jax import UserError, deploy
from tests.support.random_networks import IMAGES


@pytest.mark.as_users_compile  # as in the process that the test starts
def test_it_needs_jax_and_numpy_alone(path):
    program = f"""
import sys
class Refuse:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in {{"flax", "orbax", "optax", "tensorflow_datasets", "ml_collections", "safetensors",
                                  "sklearn", "cv2", "PIL", "grain"}}:
            raise ImportError(name + " must not be needed")
sys.meta_path.insert(0, Refuse())
import numpy as np
import recu_jax
model = recu_jax.deploy.load({str(path)!r})
images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
np.save(sys.argv[1], np.asarray(model.predict(images)))
"""
    out = path.parent / "logits.npy"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program, str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(out), deploy.load(path).predict(IMAGES), rtol=1e-6)


def test_images_that_do_not_fit_are_refused(path):
    loaded = deploy.load(path)
    for images in (IMAGES[:, :7], IMAGES[0], IMAGES.astype(np.float32)):
        with pytest.raises(UserError, match="digits_resnet8 takes uint8 of shape \\(batch, 8, 8, 1\\)"):
            loaded.predict(images)
