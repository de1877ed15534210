"""One SQLite file: what must survive a restart.

Rules of this file. Values are JSON under text keys. `put` and `delete` are durable when they return. Exactly
one process has the file open; a program never guesses its way around a file it can't read. The easy mistake:
SQLite's journal files hold the same secrets, so whatever is made here is closed to others.
"""

import contextlib
import fcntl
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from weavepy.errors import LocalError

SCHEMA_VERSION: Final = 1
_LOCK_WAIT_S: Final = 0.5  # a router that was just told to stop may hold it for a moment


class Store:
    """Durable key-value pairs. May be called from any thread, one call at a time."""

    def __init__(self, path: Path) -> None:
        """Opens the file, or creates it, readable by its owner only, with its directory if need be.

        LocalError, naming the file and what to do: somebody has it open, it is damaged, it was written by a
        newer weavepy, or it can't be reached.
        """
        self._path = path
        self._mutex = threading.Lock()
        with contextlib.ExitStack() as undo:
            try:
                # Only a directory that we make is closed to others: the operator may have given /tmp.
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._lock_fd = _lock(path)
                undo.callback(os.close, self._lock_fd)
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                path.chmod(0o600)
            except OSError as error:
                raise LocalError(
                    f"cannot use the state file {path}: {error.strerror}; choose a directory with --state-dir"
                ) from None
            self._db = self._open()
            undo.pop_all()

    def get(self, key: str) -> object | None:
        """Returns the value of `key`, or None if there is none."""
        with self._using() as db:
            row = db.execute("SELECT value FROM entries WHERE key = ?", (key,)).fetchone()
        return None if row is None else self._decode(row[0])

    def put(self, key: str, value: object) -> None:
        """Stores a JSON value; it survives a power cut from when this returns."""
        text = json.dumps(value, separators=(",", ":"))
        with self._using() as db:
            db.execute("INSERT OR REPLACE INTO entries (key, value) VALUES (?, ?)", (key, text))

    def delete(self, key: str) -> None:
        """Forgets `key`, durably; a missing one is fine."""
        with self._using() as db:
            db.execute("DELETE FROM entries WHERE key = ?", (key,))

    def items(self, prefix: str) -> dict[str, object]:
        """Returns all pairs whose key starts with `prefix`, in the order of their keys."""
        with self._using() as db:
            rows = db.execute(
                "SELECT key, value FROM entries WHERE substr(key, 1, ?) = ? ORDER BY key",
                (len(prefix), prefix),
            ).fetchall()
        return {key: self._decode(text) for key, text in rows}

    def close(self) -> None:
        """Closes the file and lets others open it. May be called twice."""
        with self._mutex:
            if self._lock_fd >= 0:
                self._db.close()
                os.close(self._lock_fd)
                self._lock_fd = -1

    def _open(self) -> sqlite3.Connection:
        try:
            # Without Python's own transactions: each statement commits, and has been synced, when it returns.
            db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise LocalError(f"cannot open the state file {self._path}: {error}") from None
        try:
            version = self._migrate(db)
        except sqlite3.OperationalError as error:
            db.close()
            raise LocalError(f"cannot read or write the state file {self._path}: {error}") from None
        except sqlite3.DatabaseError as error:
            db.close()
            raise self._damaged(error) from None
        if version > SCHEMA_VERSION:
            db.close()
            raise LocalError(
                f"the state file {self._path} was written by a newer weavepy (its schema is {version}, "
                f"ours {SCHEMA_VERSION}); run that version, or move the file away to start afresh"
            )
        return db

    def _migrate(self, db: sqlite3.Connection) -> int:
        """Returns the file's schema version, after giving an empty file ours. A newer one isn't touched."""
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA_VERSION:
            return version
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("the check of its pages failed")
        if version == 0:
            db.execute("BEGIN IMMEDIATE")
            db.execute("CREATE TABLE entries (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            db.execute("COMMIT")
        return version

    @contextlib.contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        with self._mutex:
            if self._lock_fd < 0:
                raise LocalError(f"the state file {self._path} is closed already")
            try:
                yield self._db
            except sqlite3.OperationalError as error:
                raise LocalError(f"cannot read or write the state file {self._path}: {error}") from None
            except sqlite3.DatabaseError as error:
                raise self._damaged(error) from None

    def _decode(self, text: str) -> object:
        try:
            value: object = json.loads(text)
        except ValueError as error:
            raise self._damaged(error) from None
        return value

    def _damaged(self, error: Exception) -> LocalError:
        return LocalError(
            f"the state file {self._path} is damaged ({error}); move it away, with "
            f"{self._path.name}-wal and -shm if there, and launch again: the host then has a new identity"
        )


def _lock(path: Path) -> int:
    """Takes the lock beside the file and writes our pid into it, or raises LocalError with the owner's pid.

    A lock of our own, because SQLite's would only show on the first write, and doesn't tell who holds it.
    """
    fd = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            owner = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            if time.monotonic() >= deadline:
                os.close(fd)
                raise LocalError(
                    f"the state file {path} is in use by process {owner}; stop that router first "
                    "(weavepy stop), or choose another directory with --state-dir"
                ) from None
        time.sleep(0.02)
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd
