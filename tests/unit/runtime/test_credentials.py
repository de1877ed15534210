"""The host's key and the network's password on disk."""

import stat
from pathlib import Path

import pytest

from weavepy.errors import LocalError
from weavepy.runtime.credentials import choose_password, load_peer_name, write_secret

STRONG = "kJ8-2vXq_9sLw0zRt7-hYb3Nf6Gm1Pc4"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_is_made_once_and_names_the_host(tmp_path: Path) -> None:
    name = load_peer_name(tmp_path, "")
    assert mode(tmp_path / "identity.key") == 0o600
    assert len((tmp_path / "identity.key").read_bytes()) == 32
    assert load_peer_name(tmp_path, "") == name
    assert name >> 40 & 3 == 2  # local, unicast
    assert [path.name for path in tmp_path.iterdir()] == ["identity.key"]


def test_a_name_that_is_given_wins(tmp_path: Path) -> None:
    assert load_peer_name(tmp_path, "02:00:00:00:00:05") == 0x020000000005
    for bad in ("03:00:00:00:00:05", "00:00:00:00:00:00", "zz"):
        with pytest.raises(LocalError, match=f"--name {bad}"):
            load_peer_name(tmp_path, bad)


def test_a_key_that_others_could_read_is_refused(tmp_path: Path) -> None:
    load_peer_name(tmp_path, "")
    (tmp_path / "identity.key").chmod(0o640)
    with pytest.raises(LocalError, match="mode 0640"):
        load_peer_name(tmp_path, "")


def test_a_damaged_or_linked_key_is_refused(tmp_path: Path) -> None:
    write_secret(tmp_path / "identity.key", bytes(31))
    with pytest.raises(LocalError, match="damaged"):
        load_peer_name(tmp_path, "")
    (tmp_path / "identity.key").unlink()
    (tmp_path / "elsewhere").write_bytes(bytes(32))
    (tmp_path / "identity.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LocalError, match="cannot read"):
        load_peer_name(tmp_path, "")


def test_a_given_password_is_kept_for_the_next_start(tmp_path: Path) -> None:
    first = choose_password(tmp_path, STRONG, None, None)
    assert first is not None
    assert (first.text, first.source, first.warnings) == (STRONG, {"kept": "yes"}, ())
    assert mode(tmp_path / "password") == 0o600
    again = choose_password(tmp_path, None, None, first.source)
    assert again == first
    assert STRONG not in repr(again)


def test_a_file_is_read_again_at_each_start(tmp_path: Path) -> None:
    path = tmp_path / "pw"
    write_secret(path, f"{STRONG}\nignored\n".encode())
    first = choose_password(tmp_path, None, str(path), {"kept": "yes"})
    assert first is not None
    assert (first.text, first.source) == (STRONG, {"file": str(path)})
    write_secret(path, f"{STRONG}2\r\n".encode())
    again = choose_password(tmp_path, None, None, first.source)
    assert again is not None
    assert again.text == STRONG + "2"


def test_loose_files_and_weak_passwords_get_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "pw"
    path.write_text("rabbit")
    path.chmod(0o644)
    password = choose_password(tmp_path, None, str(path), None)
    assert password is not None
    assert len(password.warnings) == 2
    assert "rabbit" not in "".join(password.warnings)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"x" * 5000])
def test_what_is_no_password_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pw"
    path.write_bytes(content)
    with pytest.raises(LocalError, match="pw"):
        choose_password(tmp_path, None, str(path), None)


def test_no_password_and_a_file_that_is_gone(tmp_path: Path) -> None:
    assert choose_password(tmp_path, None, None, None) is None
    with pytest.raises(LocalError, match="No such file"):
        choose_password(tmp_path, None, None, {"file": str(tmp_path / "gone")})
    with pytest.raises(LocalError, match="empty"):
        choose_password(tmp_path, "", None, None)
