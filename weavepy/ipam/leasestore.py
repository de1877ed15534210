"""What of a lease survives a restart.

Rules of this file. A text is read by the version that wrote it or a later one. What was saved is saved again only when
it is something else. The thing people get wrong: a time is worth something in the boot that it belongs to only.
"""

import json
from collections.abc import Collection, Mapping
from typing import Final

from weavepy.events import PeerName
from weavepy.ipam.actions import Save
from weavepy.wire.lease import LeaseState, Roster, Statement, decode_lease_state_untrusted, encode_lease_state

KEYS: Final = "ipam/lease/"
_STATE: Final = KEYS + "state"  # our statement and the roster, as on the wire
_MEMBER: Final = KEYS + "member"  # whether we are or were a member, and haven't forgotten the ring since
_CONTACT: Final = KEYS + "contact"  # the boot, and when in it we last were in contact
_TAKEN: Final = KEYS + "taken"  # whose space we have taken over already


def holds_lease(stored: Mapping[str, str]) -> bool:
    """Tells whether a host, by what it had saved, agreed with others that its space may be taken over."""
    return _MEMBER in stored


class LeaseStore:
    """What was saved. `boot` names this boot of the host; without it no time is kept."""

    def __init__(self, boot: str, stored: Mapping[str, str]) -> None:
        self._boot = boot
        self._saved: dict[str, str | None] = dict(stored)
        self._saved_contact_at: float | None = None  # in this run
        self.was_member = _MEMBER in stored
        self.taken = {PeerName(name) for name in json.loads(stored.get(_TAKEN, "[]"))}
        last_boot, last_contact = json.loads(stored.get(_CONTACT, '["", 0]'))
        self.contact_at = float(last_contact) if boot and last_boot == boot else None

    def restore(self, own: PeerName, period_s: int) -> tuple[Statement, Roster | None]:
        """Returns what this host said last, and the roster; a fresh statement if it said nothing."""
        fresh = Statement(own, 1, 0, 0, period_s)
        text = self._saved.get(_STATE)
        if text is None:
            return fresh, None
        kept = decode_lease_state_untrusted(bytes.fromhex(json.loads(text)))
        said = next((one for one in kept.statements if one.peer == own), None)
        if said is None:  # of a host that had another name
            return fresh, None
        return said._replace(reclaim_after_s=period_s, serial=said.serial + 1), kept.roster

    def save_said(self, mine: Statement, roster: Roster | None) -> list[Save]:
        """Keeps what must be durable before anybody is told."""
        return self._save(_STATE, json.dumps(encode_lease_state(LeaseState(roster, (mine,))).hex()))

    def save_done(self, *, was_member: bool, taken: Collection[PeerName]) -> list[Save]:
        """Keeps what was done; if it isn't kept it is done again."""
        text = json.dumps(sorted(taken)) if taken else None
        return [*self._save(_MEMBER, "1" if was_member else None), *self._save(_TAKEN, text)]

    def save_contact(self, now: float, every_s: float) -> list[Save]:
        """Keeps when there was contact, no more often than `every_s`."""
        if not self._boot or (self._saved_contact_at is not None and now < self._saved_contact_at + every_s):
            return []
        self._saved_contact_at = now
        return self._save(_CONTACT, json.dumps([self._boot, now]))

    def _save(self, key: str, text: str | None) -> list[Save]:
        if self._saved.get(key) == text:
            return []
        self._saved[key] = text
        return [Save(key, text)]
