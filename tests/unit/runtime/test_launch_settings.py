"""What a launch comes down to: this command line, the last one and the password together."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from weavepy.errors import LocalError, UsageError
from weavepy.events import Address
from weavepy.runtime.launch import Launch, Settings, settle
from weavepy.store import Store

SECRET = "kJ8-2vXq_9sLw0zRt7-hYb3Nf6Gm1Pc4"
USABLE = ("aes-256-gcm", "chacha20-poly1305")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "weavepy.db")
    yield opened
    opened.close()


def launched(tmp_path: Path, store: Store, **said: Any) -> Settings:
    settings = settle(Launch(tmp_path, tmp_path, **said), store, USABLE)
    settings.keep(store)
    return settings


def test_no_password_is_refused_unless_said(tmp_path: Path, store: Store) -> None:
    with pytest.raises(LocalError, match="--no-encryption"):
        launched(tmp_path, store)
    clear = launched(tmp_path, store, flags={"no_encryption": True})
    assert (clear.ciphers, clear.password) == (("clear",), None)
    assert "encryption is off" in clear.warnings[0]


def test_a_launch_without_arguments_is_the_same_router(tmp_path: Path, store: Store) -> None:
    first = launched(
        tmp_path, store, flags={"port": 7000}, environment={"mtu": 1300}, password=SECRET, peers=("a", "b")
    )
    again = launched(tmp_path, store)
    assert again == first
    assert (again.options.port, again.options.mtu, again.peers) == (7000, 1300, ("a", "b"))


def test_the_last_password_goes_on_when_only_flags_change(tmp_path: Path, store: Store) -> None:
    launched(tmp_path, store, flags={"port": 7000}, password=SECRET, peers=("a",))
    changed = launched(tmp_path, store, flags={"mtu": 1300})
    assert changed.password is not None
    assert (changed.password.text, changed.options.port, changed.peers) == (SECRET, 6783, ("a",))
    assert changed.warnings == ()
    assert changed.notes == ("the last launch also had --port; this one doesn't",)


def test_a_password_ends_no_encryption(tmp_path: Path, store: Store) -> None:
    launched(tmp_path, store, flags={"no_encryption": True})
    sealed = launched(tmp_path, store, password=SECRET)
    assert sealed.ciphers == USABLE
    assert launched(tmp_path, store).password == sealed.password


def test_clear_once_is_not_clear_for_ever(tmp_path: Path, store: Store) -> None:
    """Dropping --no-encryption while other flags are given must not leave the traffic in clear."""
    launched(tmp_path, store, flags={"no_encryption": True})
    with pytest.raises(LocalError, match="no password given"):
        launched(tmp_path, store, flags={"mtu": 1300})


def test_both_is_a_contradiction(tmp_path: Path, store: Store) -> None:
    with pytest.raises(LocalError, match="contradict"):
        launched(tmp_path, store, flags={"no_encryption": True}, password=SECRET)


def test_peers_are_replaced_only_by_peers(tmp_path: Path, store: Store) -> None:
    launched(tmp_path, store, password=SECRET, peers=("a",))
    assert launched(tmp_path, store, flags={"mtu": 1300}).peers == ("a",)
    assert launched(tmp_path, store, peers=("b",)).peers == ("b",)
    assert launched(tmp_path, store).peers == ("b",)


def test_resume_takes_the_peers_it_last_had_and_no_others(tmp_path: Path, store: Store) -> None:
    assert launched(tmp_path, store, password=SECRET, resume=True).peers == ()
    launched(tmp_path, store, flags={"mtu": 1300}, peers=("a",))
    store.put("targets", ["a", "b"])
    store.put("neighbours", [["10.0.0.7", 6783]])
    again = launched(tmp_path, store, resume=True)
    assert (again.peers, again.options.mtu) == (("a", "b"), 1300)
    assert again.remembered == (Address("10.0.0.7", 6783),)
    with pytest.raises(UsageError, match="--resume"):
        launched(tmp_path, store, resume=True, peers=("c",))
    assert launched(tmp_path, store).peers == ("a", "b")


def test_a_line_that_is_started_again_doesnt_undo_connect_and_forget(tmp_path: Path, store: Store) -> None:
    """A service manager starts what its unit says, also after a crash."""
    unit = {"foreground": True, "peers": ("a", "b")}
    assert launched(tmp_path, store, password=SECRET, **unit).peers == ("a", "b")
    store.put("targets", ["b", "c"])
    store.put("neighbours", [["10.0.0.7", 6783]])
    again = launched(tmp_path, store, **unit)
    assert (again.peers, len(again.remembered)) == (("b", "c"), 1)
    assert launched(tmp_path, store).peers == ("b", "c")  # nor does starting it by hand without peers
    assert launched(tmp_path, store, **unit).peers == ("b", "c")
    edited = launched(tmp_path, store, foreground=True, peers=("a", "d"))
    assert (edited.peers, edited.remembered) == (("a", "d"), ())


def test_peers_given_by_hand_count(tmp_path: Path, store: Store) -> None:
    launched(tmp_path, store, password=SECRET, peers=("a",))
    store.put("targets", ["b"])
    assert launched(tmp_path, store, peers=("a",)).peers == ("a",)


def test_the_cipher_must_be_there(tmp_path: Path, store: Store) -> None:
    said = {"flags": {"cipher": "chacha20-poly1305"}, "password": SECRET}
    assert launched(tmp_path, store, **said).ciphers == ("chacha20-poly1305",)
    with pytest.raises(LocalError, match="use chacha20-poly1305"):
        settle(
            Launch(tmp_path, tmp_path, flags={"cipher": "aes-256-gcm"}, password=SECRET),
            store,
            ("chacha20-poly1305",),
        )


def test_secrets_are_in_no_repr(tmp_path: Path, store: Store) -> None:
    launch = Launch(tmp_path, tmp_path, password=SECRET)
    assert SECRET not in repr(launch) + repr(settle(launch, store, USABLE))
    assert SECRET not in str(store.items(""))


@pytest.mark.parametrize("peer", ["10.0.0.1:99999", "[::1", "two words", ""])
def test_what_is_no_peer_is_refused_before_it_is_kept(tmp_path: Path, store: Store, peer: str) -> None:
    with pytest.raises(UsageError, match=r"write|port"):
        launched(tmp_path, store, password=SECRET, peers=("good", peer))
    assert launched(tmp_path, store, password=SECRET).peers == ()


def test_whose_addresses_others_may_take_over_must_know_when(tmp_path: Path, store: Store) -> None:
    store.put("ipam/lease/member", 1)
    with pytest.raises(LocalError, match="--reclaim-after as they are, or `weavepy reset`"):
        launched(tmp_path, store, password=SECRET)
    settings = launched(tmp_path, store, password=SECRET, flags={"reclaim_after": 600})
    assert settings.options.address_plan().reclaim_after_s == 600
    assert settings.stored_addresses == {"ipam/lease/member": "1"}
