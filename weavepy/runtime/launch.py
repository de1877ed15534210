"""One launch: what the command line, the environment, the configuration and the last launch come down to.

Rules of this file. Three things are remembered separately, each until it is said anew: the flags as a whole,
the source of the password, and the peers. A service manager starts the same line again and again, so in the
foreground peers are said anew only by another line: what `connect` and `forget` changed since counts. Nothing is
stored before it is known to work. The password is in `Launch` and `Password` only, and in no repr.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from weavepy.errors import LocalError, UsageError
from weavepy.events import Address, PeerName
from weavepy.ipam.leasestore import holds_lease
from weavepy.router import NEIGHBOURS_KEY
from weavepy.runtime.addresses import split_peer
from weavepy.runtime.credentials import Password, choose_password, load_peer_name
from weavepy.runtime.options import LaunchOptions, merge, options_from_json
from weavepy.runtime.targets import TARGETS_KEY
from weavepy.store import Store

OPTIONS_KEY = "launch/options"
PASSWORD_KEY = "launch/password"
ADDRESSES_PREFIX = "ipam/"
PEERS_KEY = "launch/peers"  # as the last line said; the targets may be others by now


@dataclass(frozen=True, slots=True)
class Launch:
    """What the command line asked for: standard input of `run`."""

    state_dir: Path
    run_dir: Path
    foreground: bool = False
    flags: dict[str, object] = field(default_factory=dict)
    environment: dict[str, object] = field(default_factory=dict)
    config: dict[str, object] = field(default_factory=dict)
    peers: tuple[str, ...] = ()
    resume: bool = False
    password: str | None = field(default=None, repr=False)
    password_file: str | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """What this launch comes down to."""

    options: LaunchOptions
    name: PeerName
    password: Password | None
    ciphers: tuple[str, ...]
    peers: tuple[str, ...]
    said_peers: tuple[str, ...]
    remembered: tuple[Address, ...]  # where the last run's neighbours were
    stored_addresses: dict[str, str]  # what the last run kept of them, as the router wrote it
    warnings: tuple[str, ...]  # hold as long as this router runs
    notes: tuple[str, ...]  # for whoever launches it
    kept: dict[str, object]

    def keep(self, store: Store) -> None:
        """Makes the next launch without arguments this one again; only once it is clear that this one
        works.
        """
        store.put(OPTIONS_KEY, self.kept)
        store.put(TARGETS_KEY, list(self.peers))
        store.put(PEERS_KEY, list(self.said_peers))
        if self.password is not None:
            store.put(PASSWORD_KEY, self.password.source)


def settle(launch: Launch, store: Store, usable: tuple[str, ...]) -> Settings:
    """Combines what was said now with the last launch; `usable`: the ciphers this machine can do, best first.

    LocalError for what can't work, with what to say instead.
    """
    if launch.resume and launch.peers:
        raise UsageError(
            "--resume takes the peers that the router last had: leave out either it or the peers"
        )
    stored = store.get(OPTIONS_KEY)
    stored = stored if isinstance(stored, dict) else {}
    used, kept = merge(
        flags=launch.flags, environment=launch.environment, stored=stored, config=launch.config
    )
    stored_addresses = {key: json.dumps(value) for key, value in store.items(ADDRESSES_PREFIX).items()}
    secret_given = launch.password is not None or launch.password_file is not None
    if secret_given and "no_encryption" not in {**launch.flags, **launch.environment}:
        used.pop("no_encryption", None)
        kept.pop("no_encryption", None)
    options = options_from_json(used)
    if holds_lease(stored_addresses) and not options.reclaim_after:
        raise LocalError(
            "this host has agreed with others that the addresses of lost hosts are taken over, its own too: launch it "
            "with --reclaim-after as they are, or `weavepy reset` it first"
        )
    warnings: list[str] = []
    notes: tuple[str, ...] = ()
    if launch.flags and (dropped := sorted(stored.keys() - used.keys())):
        names = ", ".join("--" + name.replace("_", "-") for name in dropped)
        notes = (f"the last launch also had {names}; this one doesn't",)
    password = None
    if options.no_encryption:
        if secret_given:
            raise UsageError("a password and --no-encryption contradict each other; give one of them")
        warnings.append("encryption is off: everybody on the way can read and change the containers' traffic")
    else:
        password = choose_password(
            launch.state_dir, launch.password, launch.password_file, store.get(PASSWORD_KEY)
        )
        if password is None:
            raise LocalError(
                "no password given, so nothing would be encrypted: use --password-file FILE or "
                "WEAVEPY_PASSWORD (`weavepy keygen` makes a good one), or say --no-encryption"
            )
        warnings += password.warnings
    for peer in launch.peers:
        split_peer(peer)  # what is no peer now won't be one later either
    last_said = _texts(store.get(PEERS_KEY))
    anew = bool(launch.peers) and not (launch.foreground and launch.peers == last_said)
    return Settings(
        options=options,
        name=load_peer_name(launch.state_dir, options.name),
        password=password,
        ciphers=_ciphers(options, usable),
        peers=launch.peers if anew else _texts(store.get(TARGETS_KEY)),
        said_peers=launch.peers or last_said,
        remembered=() if anew else _addresses(store.get(NEIGHBOURS_KEY)),
        stored_addresses=stored_addresses,
        warnings=tuple(warnings),
        notes=notes,
        kept=kept,
    )


def _texts(stored: object) -> tuple[str, ...]:
    return tuple(str(text) for text in stored) if isinstance(stored, list) else ()


def _addresses(stored: object) -> tuple[Address, ...]:
    rows = stored if isinstance(stored, list) else []
    return tuple(Address(str(row[0]), int(row[1])) for row in rows if isinstance(row, list) and len(row) == 2)


def _ciphers(options: LaunchOptions, usable: tuple[str, ...]) -> tuple[str, ...]:
    if options.no_encryption:
        return ("clear",)
    if options.cipher == "auto":
        return usable
    if options.cipher not in usable:
        others = " or ".join(usable)
        raise LocalError(f"--cipher {options.cipher}: this machine can't do that fast enough; use {others}")
    return (options.cipher,)
