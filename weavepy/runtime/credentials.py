"""The host's key and the network's password: where they are kept and who may read them.

Rules of this file. A secret is in a file of mode 0600 or in memory, never in an argument, an environment
that outlives the start, a log or an error. A key file that others can read is refused, because a peer name
that two hosts can claim is no identity; a password file that others can read is the operator's choice and
only gets a warning.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from weavepy import limits
from weavepy.crypto.identity import SECRET_BYTES, Identity
from weavepy.crypto.password import estimate_bits
from weavepy.errors import LocalError, WireError
from weavepy.events import PeerName
from weavepy.wire.peername import parse_peer_name

KEY_FILE = "identity.key"
PASSWORD_FILE = "password"
PASSWORD_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True)
class Password:
    """The network's password, and as `source` where it came from: {"file": path} or {"kept": "yes"}."""

    text: str = field(repr=False)
    source: dict[str, str]
    warnings: tuple[str, ...] = ()


def load_peer_name(state_dir: Path, override: str) -> PeerName:
    """Returns the name that the host's key gives it, or `override`; makes the key at the first start."""
    identity = Identity(_load_key(state_dir / KEY_FILE))
    if not override:
        return identity.name
    try:
        name = parse_peer_name(override)
    except WireError as error:
        raise LocalError(f"--name {override}: {error}; write it like 02:00:00:00:00:01 or ::1") from None
    if not name or name >> 40 & 1:
        raise LocalError(f"--name {override}: choose a unicast name, for example 02:00:00:00:00:01")
    return name


def choose_password(state_dir: Path, given: str | None, path: str | None, last: object) -> Password | None:
    """Returns the password to use, or None if there is none.

    `given` came by the environment, `path` names a file, `last` is the source that the last launch used. A
    given password is kept in the state directory, so that a restart without that environment is the same
    router.
    """
    kept = state_dir / PASSWORD_FILE
    if path is None and given is None and isinstance(last, dict):
        path = last.get("file")
        if path is None and last.get("kept") == "yes":
            path = str(kept)
    if given is not None:
        text = _checked(given, "WEAVEPY_PASSWORD")
        write_secret(kept, text.encode())
        return Password(text, {"kept": "yes"}, _strength_warning(text))
    if path is None:
        return None
    text, loose = _read_password_file(Path(path))
    warnings = _strength_warning(text)
    if loose:
        warnings += (f"{path} can be read by others; `chmod 600 {path}` keeps the password secret",)
    source = {"kept": "yes"} if Path(path) == kept else {"file": str(Path(path).absolute())}
    return Password(text, source, warnings)


def write_secret(path: Path, content: bytes) -> None:
    """Replaces `path` by a file of mode 0600, complete or not at all, durable on return."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _load_key(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        key = os.urandom(SECRET_BYTES)
        write_secret(path, key)
        return key
    except OSError as error:
        raise LocalError(f"cannot read this host's key {path}: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise LocalError(
                f"{path} has mode {mode:04o}, so others may have read this host's key; "
                f"`chmod 600 {path}` if you are sure that nobody did, else `weavepy reset`"
            )
        key = file.read(SECRET_BYTES + 1)
    if len(key) != SECRET_BYTES:
        raise LocalError(
            f"{path} is damaged: restore it from a backup, or `weavepy reset` to become a new host"
        )
    return key


def _read_password_file(path: Path) -> tuple[str, bool]:
    """Returns the first line of `path` and whether others may read the file."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(PASSWORD_BYTES_MAX + 1)
    except OSError as error:
        raise LocalError(f"cannot read the password file {path}: {error.strerror}") from None
    if len(content) > PASSWORD_BYTES_MAX:
        raise LocalError(f"{path} is longer than {PASSWORD_BYTES_MAX} bytes; is it really the password file?")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise LocalError(f"{path} is not UTF-8 text; `weavepy keygen > {path}` makes a good one") from None
    return _checked(text.split("\n", 1)[0].removesuffix("\r"), str(path)), bool(mode & 0o077)


def _checked(text: str, where: str) -> str:
    if not text:
        raise LocalError(f"the password in {where} is empty; `weavepy keygen` makes a good one")
    return text


def _strength_warning(text: str) -> tuple[str, ...]:
    if estimate_bits(text) >= limits.PASSWORD_BITS_WARN:
        return ()
    return (
        "the password is weak: whoever records the traffic can try guesses at leisure; "
        "`weavepy keygen` makes a strong one",
    )
