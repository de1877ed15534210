"""Who on this host has which address.

Rules of this file. An address has one owner. What changed is kept until it is asked for by `saves`, which has to be
before anybody is told.
"""

from collections.abc import Iterator, Mapping

from weavepy.ipam.actions import Save
from weavepy.ipam.stored import address_key, address_text, restore_addresses


class Holdings:
    """All addresses that were given out here. `stored`: what was saved."""

    def __init__(self, stored: Mapping[str, str]) -> None:
        self._held = restore_addresses(stored)  # owner and prefix length of the subnet
        self._owned: dict[str, dict[int, int]] = {}  # the same by owner
        self._unsaved: set[int] = set()
        for address, (owner, prefix) in self._held.items():
            self._owned.setdefault(owner, {})[address] = prefix

    def __iter__(self) -> Iterator[int]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, address: int) -> bool:
        return address in self._held

    def owner(self, address: int) -> str | None:
        """Returns who has an address."""
        held = self._held.get(address)
        return None if held is None else held[0]

    def owners(self) -> list[str]:
        """Returns all who have one."""
        return list(self._owned)

    def of(self, owner: str) -> dict[int, int]:
        """Returns an owner's addresses, with the prefix lengths of their subnets."""
        return dict(self._owned.get(owner, {}))

    def add(self, address: int, owner: str, prefix: int) -> None:
        """Gives an address to an owner; who has it already keeps it as it is."""
        if address not in self._held:
            self._held[address] = (owner, prefix)
            self._owned.setdefault(owner, {})[address] = prefix
            self._unsaved.add(address)

    def forget(self, address: int) -> None:
        """Takes an address that somebody has back."""
        owner, _ = self._held.pop(address)
        del self._owned[owner][address]
        if not self._owned[owner]:
            del self._owned[owner]
        self._unsaved.add(address)

    def saves(self) -> list[Save]:
        """Returns what is to be saved since the last time."""
        changed, self._unsaved = sorted(self._unsaved), set()
        held = ((address, self._held.get(address)) for address in changed)
        return [Save(address_key(a), None if h is None else address_text(*h)) for a, h in held]
