"""Fixtures for tests of runs in buckets."""

import pytest


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Returns the folder of the local copies. Sets made-up credentials and the address of a missing server."""
    for name in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(f"AWS_{name}", str(tmp_path / "none"))
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "somebody")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server(tmp_path, cache, monkeypatch):
    """Returns a started S3 server with a bucket called `bucket`."""
    from tests.support.s3 import Server

    started = Server(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", started.address)
    started.start()
    yield started
    started.stop()
