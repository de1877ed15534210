"""What an allocator is started with."""

from dataclasses import dataclass

from weavepy.events import PeerName
from weavepy.wire.ipam import Range


@dataclass(frozen=True, slots=True)
class AllocatorConfig:
    """`quorum` voters must agree on the first owners; None: a majority of `expected`, and until there is anybody else,
    nobody need agree. `seeds`: the owners are known from the start. `observer`: never votes. `chosen`: the operator
    wants this universe; else that of a cluster which is there already is taken. `reclaim_after_s`: how long a host has
    to be gone for its space to be taken over, 0: nobody does that; `boot` names this boot of the host.
    """

    own: PeerName
    uid: int
    nickname: str
    universe: Range
    quorum: int | None = None
    seeds: tuple[PeerName, ...] = ()
    observer: bool = False
    chosen: bool = True
    reclaim_after_s: int = 0
    boot: str = ""
