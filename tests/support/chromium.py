"""Opens a page in headless Chromium, as a reader's browser would."""

import pathlib
import shutil
import subprocess

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

needed = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


def opened(page: pathlib.Path, profile: pathlib.Path) -> str:
    """Returns the page's document after its scripts have run. Fails if they wrote to the console, as errors do.

    Args:
      page: an HTML file.
      profile: a folder for the browser's own files.
    """
    quiet = ["quic", "background-networking", "component-update", "sync", "gpu"]
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{what}" for what in quiet),
        f"--user-data-dir={profile}", "--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom",
        page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout
