"""A run directory, and a scripted router behind its socket."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_router import ScriptedRouter


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("WEAVE_", "WEAVEPY_", "IPALLOC_"))]:
        monkeypatch.delenv(name)
    directory = tmp_path / "run"
    directory.mkdir()
    (tmp_path / "weavepy.toml").write_text("")
    monkeypatch.setenv("WEAVEPY_CONFIG", str(tmp_path / "weavepy.toml"))
    monkeypatch.setenv("WEAVEPY_RUN_DIR", str(directory))
    monkeypatch.setenv("WEAVEPY_STATE_DIR", str(tmp_path / "state"))
    return directory


@pytest.fixture
def router(run_dir: Path) -> Iterator[ScriptedRouter]:
    value = ScriptedRouter(run_dir)
    yield value
    value.close()
