"""Gathering facts where nothing answers, little is allowed, or nothing is there; and the command around it."""

import fcntl
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from weavepy.cli import main
from weavepy.doctor import gather, judge
from weavepy.doctor.facts import Facts, RouterFacts, StateFacts

SECRET = "not-to-be-seen"


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """A socket whose connections nobody ever takes."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "weavepy.sock"))
        sock.listen(1)
        yield sock


def test_nothing_that_is_asked_can_hang(
    tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "_TIMEOUT_S", 0.2)
    facts = gather.gather(str(tmp_path), str(tmp_path / "state"), docker_socket=tmp_path / "weavepy.sock")
    assert facts.router.state == "mute"
    assert facts.docker is not None
    assert facts.docker.state == "mute"
    assert listener.fileno() >= 0


def test_docker_sockets(tmp_path: Path, listener: socket.socket) -> None:
    path = tmp_path / "weavepy.sock"
    assert gather._docker(tmp_path / "none").state == "absent"
    listener.close()
    assert gather._docker(path).state == "refused"


def test_a_router_that_died_and_one_that_was_stopped(tmp_path: Path) -> None:
    assert gather._router(str(tmp_path)) == RouterFacts("stopped")
    (tmp_path / "weavepy.pid").write_text("4242\n")
    assert gather._router(str(tmp_path)) == RouterFacts("died", 4242)
    with (tmp_path / "weavepy.pid").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert gather._router(str(tmp_path)).state == "mute"


def test_a_command_that_is_missing_fails_or_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gather._output(["no-such-command-here"]) is None
    with pytest.raises(gather.LocalError, match="cat: "):
        gather._output(["cat", "/nonexistent"])
    monkeypatch.setattr(gather, "_TIMEOUT_S", 0.1)
    with pytest.raises(gather.LocalError, match="took longer"):
        gather._output(["sleep", "60"])


def test_the_state_directory(tmp_path: Path) -> None:
    state = tmp_path / "state"
    tmp_path.chmod(0o755)
    assert not gather._state(state / "deeper").exists
    assert not state.exists()
    state.mkdir()
    (state / "weavepy.db").write_text(SECRET)
    (state / "weavepy.db").chmod(0o644)
    (state / "identity.key").touch(0o600)
    found = gather._state(state)
    assert (found.writable, found.open_to_others) == (True, ("weavepy.db",))
    state.chmod(0o700)
    assert gather._state(state).open_to_others == ()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = StateFacts("/s", True, True, 0, 9)
    facts = Facts(6783, RouterFacts("stopped"), state=full, unknown={"clock": "no reason"})
    monkeypatch.setattr(gather, "gather", lambda _run, _state: facts)
    arguments = ["doctor", "--run-dir", str(tmp_path), "--state-dir", str(tmp_path)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "warning   router     the router is not running; its peers can't be checked; to do: `weavepy launch`",
        "unchecked clock      not checked: no reason",
        "problem   state      the disk of /s is full; to do: make room there",
        "1 problem, 1 warning, 1 not checked.",
    ]
    value = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert value["summary"] == {"ok": 0, "warning": 1, "problem": 1, "unchecked": 1}
    assert [f["level"] for f in value["findings"]] == ["warning", "unchecked", "problem"]
    monkeypatch.setattr(judge, "judge", lambda _facts: [])
    assert CliRunner().invoke(main, arguments).exit_code == 0
