"""The state file: durable, private, opened once, and clear about what is wrong with it."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from weavepy.errors import LocalError
from weavepy.store import SCHEMA_VERSION, Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "weavepy.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store(path)
    yield opened
    opened.close()


def _child(path: Path, body: str) -> subprocess.Popen[str]:
    code = (
        "import os, signal\nfrom pathlib import Path\nfrom weavepy.store import Store\n"
        f"store = Store(Path({str(path)!r}))\n{body}\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_values_come_back_as_they_went(store: Store) -> None:
    value = {
        "name": "02:00:00:00:00:01",
        "peers": ["a", "b"],
        "port": 6783,
        "mtu": None,
        "on": True,
        "x": 1.5,
    }
    store.put("launch", value)
    assert store.get("launch") == value


def test_a_missing_key_is_none(store: Store) -> None:
    assert store.get("nothing") is None


def test_the_last_put_wins(store: Store) -> None:
    store.put("k", 1)
    store.put("k", [2])
    assert store.get("k") == [2]


def test_deleted_is_gone_and_deleting_twice_is_fine(store: Store) -> None:
    store.put("k", 1)
    store.delete("k")
    store.delete("k")
    assert store.get("k") is None


def test_items_are_selected_by_exact_prefix_in_order(store: Store) -> None:
    for key in ("attach/b", "attach/a", "attach", "attachment", "ATTACH/c", "attach/%"):
        store.put(key, key)
    assert list(store.items("attach/").items()) == [(k, k) for k in ("attach/%", "attach/a", "attach/b")]
    assert store.items("_ttach/") == {}
    assert len(store.items("")) == 6


def test_values_outlive_the_program(path: Path) -> None:
    first = Store(path)
    first.put("k", {"v": 1})
    first.close()
    second = Store(path)
    assert second.get("k") == {"v": 1}
    second.close()


def test_a_put_survives_kill_9(path: Path) -> None:
    child = _child(path, "store.put('k', 'durable'); print('done', flush=True); signal.pause()")
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "done\n"
        child.send_signal(signal.SIGKILL)
    store = Store(path)
    assert store.get("k") == "durable"
    store.close()


def test_every_put_is_synced_before_it_returns(store: Store) -> None:
    # A power cut can't be had here; that SQLite was told to sync each commit can be asked.
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.isolation_level is None


def test_a_second_opener_is_told_who_has_it(path: Path) -> None:
    child = _child(path, "print(os.getpid(), flush=True); signal.pause()")
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        began = time.monotonic()
        with pytest.raises(LocalError, match=f"in use by process {child.pid}") as refusal:
            Store(path)
        assert time.monotonic() - began < 1.0
        assert str(path) in str(refusal.value)
        child.send_signal(signal.SIGKILL)
    Store(path).close()  # its lock died with it


def test_two_openers_in_one_process_exclude_each_other_too(store: Store, path: Path) -> None:
    with pytest.raises(LocalError, match=f"in use by process {os.getpid()}"):
        Store(path)
    store.close()
    Store(path).close()


def test_only_the_owner_can_read_anything(store: Store, path: Path) -> None:
    store.put("secret", "x")
    assert path.parent.stat().st_mode & 0o777 == 0o700
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert {path.name, f"{path.name}-wal", f"{path.name}-shm", f"{path.name}.lock"} == set(modes)
    assert set(modes.values()) == {0o600}


def test_a_file_left_open_to_others_is_closed_to_them(path: Path) -> None:
    Store(path).close()
    path.chmod(0o644)
    Store(path).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_mode_of_an_existing_directory_is_the_operators(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Store(tmp_path / "weavepy.db").close()
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    Store(path).close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(LocalError, match="newer weavepy") as refusal:
        Store(path)
    assert str(path) in str(refusal.value)
    assert "run that version" in str(refusal.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["no database", "torn page", "cut short"])
def test_a_damaged_file_is_named_with_what_to_do(path: Path, damage: str) -> None:
    store = Store(path)
    for number in range(500):
        store.put(f"key{number:04}", "x" * 100)
    store.close()
    content = bytearray(path.read_bytes())
    if damage == "no database":
        content[:16] = b"this is no state"
    elif damage == "torn page":
        content[4096 : len(content)] = b"\xa5" * (len(content) - 4096)
    else:
        del content[len(content) // 2 :]
    path.write_bytes(content)
    with pytest.raises(LocalError, match="damaged") as refusal:
        Store(path)
    assert str(path) in str(refusal.value)
    assert "move it away" in str(refusal.value)
    with pytest.raises(LocalError, match="damaged"):  # and the failed attempt let go of the lock
        Store(path)


def test_a_value_that_is_no_json_counts_as_damage(store: Store) -> None:
    store._db.execute("INSERT INTO entries VALUES ('k', '{')")
    with pytest.raises(LocalError, match="damaged"):
        store.get("k")
    with pytest.raises(LocalError, match="damaged"):
        store.items("k")


def test_a_value_that_json_cannot_hold_is_refused_and_changes_nothing(store: Store) -> None:
    store.put("k", 1)
    with pytest.raises(TypeError):
        store.put("k", b"bytes")
    assert store.get("k") == 1
    store.put("k", json.loads('"ok"'))
    assert store.get("k") == "ok"


def test_a_place_that_cannot_hold_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalError, match="--state-dir"):
        Store(tmp_path / "file" / "weavepy.db")
    (tmp_path / "weavepy.db").mkdir()
    with pytest.raises(LocalError, match="--state-dir"):
        Store(tmp_path / "weavepy.db")


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises(LocalError, match="closed"):
        store.get("k")
