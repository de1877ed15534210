"""What the mesh looks like to the operator, with Weave Net's key names.

Rules of this file. Plain JSON values, read-only, everything in a fixed order. Texts that came from peers
(nicknames, addresses) are passed on as they are; whoever prints them makes them safe.
"""

from collections.abc import Mapping

from weavepy.events import PeerName
from weavepy.mesh.dialler import TargetStatus
from weavepy.mesh.routes import Routes
from weavepy.wire.peername import format_peer_name
from weavepy.wire.topology import PeerRecord

Records = Mapping[PeerName, PeerRecord]


def report_peers(records: Records) -> list[dict[str, object]]:
    """Returns every peer, and the connections that it says it has."""
    return [
        {
            "Name": format_peer_name(record.name),
            "NickName": record.nickname,
            "UID": record.uid,
            "ShortID": record.short_id,
            "Version": record.version,
            "Connections": [
                {
                    "Name": format_peer_name(connection.remote),
                    "NickName": nickname_of(connection.remote, records),
                    "Address": connection.address,
                    "Outbound": connection.outbound,
                    "Established": connection.established,
                }
                for connection in sorted(record.connections, key=lambda c: c.remote)
            ],
        }
        for _, record in sorted(records.items())
    ]


def report_unicast(routes: Routes) -> list[dict[str, str]]:
    """Returns each destination that frames can reach, and the neighbour on the way to it."""
    return [
        {"Dest": format_peer_name(destination), "Via": format_peer_name(hop)}
        for destination, hop in sorted(routes.unicast.items())
    ]


def report_broadcast(routes: Routes) -> list[dict[str, object]]:
    """Returns each source of broadcasts, and the neighbours that its frames go on to."""
    return [
        {
            "Source": format_peer_name(source),
            "Via": [format_peer_name(hop) for hop in routes.broadcast(source)],
        }
        for source in sorted(routes.unicast)
    ]


def report_target(target: TargetStatus, now: float) -> dict[str, object]:
    """Returns an address that is being dialled or will be, as a connection that isn't there.

    As with Weave Net one that failed is "failed" until it is "retrying" and while it is dialled again. `retry_s` says
    in how many seconds that is; None: never.
    """
    attributes: dict[str, object] = {}
    state = "connecting" if target.error is None else "retrying" if target.state == "attempting" else "failed"
    if target.retry_at is not None and target.error is not None:
        attributes = {"retry_s": round(max(0.0, target.retry_at - now), 3)}
    elif target.state == "failed":
        attributes = {"retry_s": None}
    return {
        "Address": str(target.address),
        "Outbound": True,
        "State": state,
        "Info": target.error or "",
        "Attrs": attributes,
    }


def nickname_of(name: PeerName, records: Records) -> str:
    """Returns the nickname of `name`, empty if we don't know it."""
    record = records.get(name)
    return "" if record is None else record.nickname
