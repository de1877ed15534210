"""Log lines: their two forms, and that a peer's text can't take over a terminal."""

import json
import logging
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from weavepy.runtime.logs import start_logging, stop_logging


@pytest.fixture(autouse=True)
def undo() -> Iterator[None]:
    level = logging.getLogger().level
    yield
    stop_logging()
    logging.getLogger().setLevel(level)
    logging.getLogger("weavepy").setLevel(logging.NOTSET)


def written(tmp_path: Path) -> str:
    return (tmp_path / "weavepy.log").read_text()


def test_plain_lines(tmp_path: Path) -> None:
    start_logging(tmp_path, level="info", as_json=False, foreground=False)
    log = logging.getLogger("weavepy.router")
    log.debug("not this")
    log.info("peer %s said \x1b[2J hello\nforged line", "one")
    line = written(tmp_path)
    assert line.count("\n") == 1
    assert line.endswith("Z info router: peer one said \\x1b[2J hello\\nforged line\n")
    assert stat.S_ISREG((tmp_path / "weavepy.log").stat().st_mode)


def test_json_lines_with_a_traceback(tmp_path: Path) -> None:
    start_logging(tmp_path, level="debug", as_json=True, foreground=False)
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("weavepy.shell").exception("it went wrong")
    line = json.loads(written(tmp_path))
    assert (line["level"], line["logger"], line["text"]) == ("error", "weavepy.shell", "it went wrong")
    assert "ValueError: why" in line["traceback"]


def test_the_foreground_also_writes_to_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start_logging(tmp_path, level="warning", as_json=False, foreground=True)
    logging.getLogger("weavepy").warning("look")
    assert "warning weavepy: look" in capsys.readouterr().err
    assert "look" in written(tmp_path)
