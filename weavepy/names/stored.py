"""What of a host's own names survives a restart: each under its own key, also while it is remembered as removed.

Rules of this file. A text is read by the version that wrote it or a later one. Without what was removed, a name that
comes back after a restart would begin with a version that others think is old.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Final

from weavepy.events import PeerName
from weavepy.wire.names import Identity, NameEntry

PREFIX: Final = "names/entry/"


def entry_key(identity: Identity) -> str:
    """Returns where an entry is kept."""
    container, _, address, hostname = identity
    return PREFIX + json.dumps([container, address, hostname])


def entry_text(entry: NameEntry) -> str:
    """Returns what is kept of an entry beside its key."""
    return json.dumps([entry.version, entry.tombstone])


def restore_entries(stored: Mapping[str, str], own: PeerName) -> Iterator[NameEntry]:
    """Yields all entries that were kept."""
    for key, text in stored.items():
        if key.startswith(PREFIX):
            container, address, hostname = json.loads(key.removeprefix(PREFIX))
            version, tombstone = json.loads(text)
            yield NameEntry(str(container), own, int(address), str(hostname), int(version), int(tombstone))
