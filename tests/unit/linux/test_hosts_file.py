"""Our lines in a container's hosts file, and whatever a container may have put in its place."""

import os
import socket
from pathlib import Path

import pytest

from weavepy.errors import LocalError
from weavepy.linux import hostsfile
from weavepy.linux.hostsfile import check_hosts, with_our_lines, write_hosts

TARGET = f"pid:{os.getpid()}"


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory /etc of a process whose root is elsewhere."""
    real = os.open

    def opened(path: str, flags: int, *arguments: int, **words: int) -> int:
        return real(str(tmp_path) if str(path).endswith("/root") else path, flags, *arguments, **words)

    monkeypatch.setattr(hostsfile.os, "open", opened)
    (tmp_path / "etc").mkdir()
    return tmp_path / "etc"


def test_our_lines_take_the_place_of_our_lines() -> None:
    first = with_our_lines("127.0.0.1 localhost", ["1.2.3.4\ta"])
    assert first == "127.0.0.1 localhost\n# weavepy: begin\n1.2.3.4\ta\n# weavepy: end\n"
    assert with_our_lines(first + "::1 x\n", ["b"]) == (
        "127.0.0.1 localhost\n::1 x\n# weavepy: begin\nb\n# weavepy: end\n"
    )
    assert with_our_lines(first, []) == "127.0.0.1 localhost\n"
    assert with_our_lines("", []) == ""
    assert with_our_lines("# weavepy: end\n", []) == "# weavepy: end\n"  # somebody else's


def test_a_file_is_written_in_place(etc: Path) -> None:
    hosts = etc / "hosts"
    hosts.write_bytes(b"127.0.0.1 localhost\n# \xff\n")
    inode = hosts.stat().st_ino
    check_hosts(TARGET)
    write_hosts(TARGET, ["a much longer line than the next one"])
    write_hosts(TARGET, ["b"])
    assert hosts.read_bytes() == b"127.0.0.1 localhost\n# \xff\n# weavepy: begin\nb\n# weavepy: end\n"
    assert hosts.stat().st_ino == inode
    write_hosts(TARGET, [])
    assert hosts.read_bytes() == b"127.0.0.1 localhost\n# \xff\n"
    hosts.write_bytes(b"no end")
    write_hosts(TARGET, [])
    assert hosts.read_bytes() == b"no end"


def test_nothing_but_a_plain_file_of_its_own_is_written(etc: Path, tmp_path: Path) -> None:
    hosts, elsewhere = etc / "hosts", tmp_path / "elsewhere"
    with pytest.raises(LocalError, match="No such file"):
        write_hosts(TARGET, ["a"])
    elsewhere.write_text("mine")
    hosts.symlink_to(elsewhere)
    with pytest.raises(LocalError, match="no plain file"):
        write_hosts(TARGET, ["a"])
    hosts.unlink()
    os.mkfifo(hosts)  # opening it would wait for whoever reads it
    with pytest.raises(LocalError, match="no plain file"):
        write_hosts(TARGET, ["a"])
    hosts.unlink()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(hosts))
        with pytest.raises(LocalError, match="no plain file"):
            check_hosts(TARGET)
    hosts.unlink()
    etc.rmdir()
    etc.symlink_to(tmp_path)
    (tmp_path / "hosts").write_text("mine")
    with pytest.raises(LocalError, match="cannot open its /etc/hosts"):
        write_hosts(TARGET, ["a"])
    assert elsewhere.read_text() == (tmp_path / "hosts").read_text() == "mine"


def test_a_file_that_is_too_long_stays(etc: Path) -> None:
    (etc / "hosts").write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(LocalError, match="left alone"):
        write_hosts(TARGET, ["a"])
    assert (etc / "hosts").stat().st_size == (1 << 20) + 1


def test_this_hosts_own_file_stays() -> None:
    before = Path("/etc/hosts").read_bytes()
    with pytest.raises(LocalError, match="has no file system of its own"):
        write_hosts(TARGET, ["a"])
    assert Path("/etc/hosts").read_bytes() == before


@pytest.mark.parametrize("target", ["netns:web", "/run/netns/web"])
def test_only_a_process_leads_to_a_file(target: str) -> None:
    with pytest.raises(LocalError, match="give pid:N"):
        check_hosts(target)
