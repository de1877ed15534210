"""What the operator is told: the report put together, and each peer's fate after `connect`."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from weavepy.errors import LocalError
from weavepy.linux.attach import Attachment
from weavepy.linux.firewall import Exposure
from weavepy.runtime.operator import Operator
from weavepy.runtime.wishes import Wishes

LOCAL, REMOTE = bytes([2, 0, 0, 0, 1, 1]), bytes([2, 0, 0, 0, 1, 2])


FAILED = [
    {"Address": "x", "State": "failed", "Info": "refused", "Attrs": {"retry_s": 60.0}},
    {"Address": "y", "State": "failed", "Info": "it is us", "Attrs": {"retry_s": None}},
    {"Address": "z", "State": "retrying", "Info": "refused", "Attrs": {}},
]


class Router:
    def __init__(self) -> None:
        self.states: dict[str, str] = {}

    def targets(self) -> dict[str, str]:
        return self.states

    def report(self, now: float) -> dict[str, object]:
        assert now == 7.0
        up = {"Address": "10.0.0.2:6783", "State": "established", "Info": "", "Attrs": {"index": 5}}
        return {
            "Name": "02:00:00:00:00:01",
            "Peers": [
                {"Name": "02:00:00:00:00:01", "NickName": "one"},
                {"Name": "02:00:00:00:00:02", "NickName": "two"},
            ],
            "Connections": [up, *FAILED],
            "Targets": ["b"],
        }

    def figures(self, now: float) -> dict[str, object]:
        report = self.report(now)
        return {"Connections": report["Connections"], "TerminationCount": 2, "PeerCount": 2}


class Shell:
    """Waiting lets the scripted states become the router's."""

    connections = 2

    def __init__(self, router: Router) -> None:
        self.router = router
        self.later: dict[str, str] = {}
        self.waits: list[float] = []
        self.counters = Counter(slow_peers=1)

    def clock(self) -> float:
        return 7.0

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        self.waits.append(timeout_s)
        assert not condition()
        self.router.states = self.later
        return condition()


class Targets:
    def __init__(self) -> None:
        self.unresolved = {"a": "no such name"}
        self.forgotten: list[str] = []

    async def connect(self, names: list[str], *, replace: bool, keep_unresolved: bool) -> dict[str, str]:
        assert (replace, keep_unresolved) == (False, False)
        return {name: f"cannot resolve {name}" for name in names if name == "oen"}

    def forget(self, names: list[str]) -> None:
        self.forgotten += names


ENGINE = SimpleNamespace(
    mac_entries=lambda: [(LOCAL, 0, 1000, True), (REMOTE, 0x020000000002, 0, False)],
    counters=lambda: {"drop_tag": 3, "tap_frames": 7},
    offloads=lambda: {"gso": True},
    link_counters=lambda index: {"index": index},
    monitor_open=lambda _octets, **wish: wish["peer"],
    monitor_counts=lambda monitor: (monitor, 5),
    monitor_close=lambda _monitor: None,
)


def there() -> bool:
    """Whoever asks hasn't gone away."""
    return False


EXPOSED = {"10.0.0.9/24": Exposure("10.0.0.9/24", True)}


def operator() -> tuple[Operator, Shell, Targets]:
    router = Router()
    shell, targets = Shell(router), Targets()
    attached = Attachment("pid:7", ("10.0.0.1/24",), LOCAL, "ethwe", 70)
    value = Operator(
        router,  # type: ignore[arg-type]
        cast(Any, shell),
        cast(Any, SimpleNamespace(engine=ENGINE)),
        cast(Any, targets),
        cast(Any, SimpleNamespace(present={70: attached}, living=lambda: [attached])),
        cast(Any, SimpleNamespace(present=EXPOSED)),
        cast(Any, SimpleNamespace()),
        cast(Any, SimpleNamespace(report=lambda: {"Status": "ready"}, figures=lambda: {"ActiveIPs": 1})),
        cast(Any, SimpleNamespace(report=lambda: None, figures=dict)),
        warnings=("look out",),
        interface="vethwe-tap (via TAP)",
        tap_offloads={"tso"},
        ciphers={"aes-256-gcm": "libcrypto"},
        request_stop=lambda: None,
    )
    return value, shell, targets


def test_the_report_is_one_picture() -> None:
    value = operator()[0]
    value.ready = True
    report = value.report()
    router = report["Router"]
    assert operator()[0].report()["Ready"] is False  # nobody has said so
    assert (report["Ready"], report["Warnings"], report["Unresolved"]) == (
        True,
        ["look out"],
        ["a (no such name)"],
    )
    assert router["Targets"] == ["a", "b"]
    assert [(mac["Mac"], mac["Name"], mac["NickName"]) for mac in router["MACs"]] == [
        ("02:00:00:00:01:01", "02:00:00:00:00:01", "one"),
        ("02:00:00:00:01:02", "02:00:00:00:00:02", "two"),
    ]
    assert router["OverlayDiagnostics"]["fastpath"] == {
        "Counters": {"drop_tag": 3, "tap_frames": 7},
        "Offloads": {"csum": False, "tso": True, "gso": True},
        "Ciphers": {"aes-256-gcm": "libcrypto"},
        "Links": {"10.0.0.2:6783": {"index": 5}},
    }
    assert router["CaptureStats"] == {"PacketsReceived": 7}
    assert report["Attachments"][0]["Cidrs"] == ["10.0.0.1/24"]
    soon, never, now = (c["Info"] for c in router["Connections"] if c["Address"] in "xyz")
    assert re.fullmatch(r"refused, retry: 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d \+0000 UTC", soon)
    assert (never, now) == ("it is us, retry: never", "refused")
    assert report["Shell"] == {"Sockets": 2, "Counters": {"slow_peers": 1}}
    assert report["Captures"] == []
    assert report["IPAM"] == {"Status": "ready"}


def test_a_link_that_the_engine_has_not_yet_hides_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The router is ahead of the engine while something is written to the disk."""

    def link_counters(index: int) -> dict[str, int]:
        raise LocalError(f"no link {index}")

    monkeypatch.setattr(ENGINE, "link_counters", link_counters)
    value = operator()[0]
    assert value.report()["Router"]["OverlayDiagnostics"]["fastpath"]["Links"] == {}
    assert value.figures()["Engine"]["Links"] == {}


def test_a_capture_is_of_a_peer_or_of_all_and_in_the_report() -> None:
    value = operator()[0]
    wish: dict[str, Any] = {"direction": "", "snaplen": 100, "program": b""}
    first = value.capture(peer="", **wish)
    second = value.capture(peer="two", **wish)
    assert value.report()["Captures"] == [
        {"Number": 1, "Captured": 0, "Dropped": 5},
        {"Number": 2, "Captured": 0x020000000002, "Dropped": 5},
    ]
    with pytest.raises(LocalError, match="no peer 'three'"):
        value.capture(peer="three", **wish)
    with pytest.raises(LocalError, match="this host itself"):
        value.capture(peer="one", **wish)
    value.end_captures()
    assert (first.ending, second.ending) == (True, True)
    value.end_capture(first)
    assert [entry["Number"] for entry in value.report()["Captures"]] == [2]


def test_each_peers_fate_in_the_order_asked() -> None:
    value, shell, _ = operator()
    shell.later = {
        "up": "established",
        "down": "failed: connection refused",
        "self": "failed: the address is this router's own",
    }
    peers = ["down", "oen", "up", "self", "slow"]
    results = asyncio.run(value.connect(peers, replace=False, wait_s=10.0))
    assert [(r["peer"], r["state"]) for r in results] == [
        ("down", "failed"),
        ("oen", "failed"),
        ("up", "established"),
        ("self", "self"),
        ("slow", "connecting"),
    ]
    assert results[0]["text"] == "connection refused (is the router running there, and is the port right?)"
    assert results[1]["text"] == "cannot resolve oen"
    assert shell.waits == [10.0]


def test_not_waiting_does_not_wait() -> None:
    value, shell, _ = operator()
    (result,) = asyncio.run(value.connect(["up"], replace=False, wait_s=0.0))
    assert (result["state"], shell.waits) == ("connecting", [])


def test_forgetting_what_is_no_target_names_the_targets() -> None:
    value, shell, targets = operator()
    shell.router.states = {"b": "established"}
    with pytest.raises(LocalError, match="c is not a target; the targets are: a, b"):
        asyncio.run(value.forget(["a", "c"], known_only=True))
    assert targets.forgotten == []
    asyncio.run(value.forget(["a", "b"], known_only=True))
    assert targets.forgotten == ["a", "b"]


def test_forgetting_as_weave_does_passes_over_what_is_no_target() -> None:
    value, shell, targets = operator()
    shell.router.states = {"b": "established"}
    asyncio.run(value.forget(["c", "b"], known_only=False))
    assert targets.forgotten == ["b"]


def test_figures_grow_with_connections_only() -> None:
    figures = operator()[0].figures()
    assert figures["Engine"] == {"Counters": {"drop_tag": 3, "tap_frames": 7}, "Links": {5: {"index": 5}}}
    assert (figures["Macs"], figures["Attachments"]) == (2, 1)
    assert figures["Router"].keys() == {"Connections", "TerminationCount", "PeerCount"}


class Addressing:
    """Gives what is asked for, and takes back what is named."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, ...]] = []

    async def attach(self, _target: str, wanted: list[str], gone: Callable[[], bool]) -> dict[str, Any]:
        assert not gone()
        return {"given": wanted}

    async def expose(
        self, wanted: list[str], gone: Callable[[], bool], *, masquerade: bool
    ) -> dict[str, Any]:
        assert not gone()
        return {"exposed": wanted, "masquerade": masquerade}

    async def detach(self, target: str, unwanted: list[str]) -> None:
        self.taken.append((target, *unwanted))

    async def hide(self, unwanted: list[str]) -> None:
        self.taken.append(tuple(unwanted))


class Names:
    def __init__(self, refusal: str = "") -> None:
        self.given: list[tuple[str, list[str], list[str]]] = []
        self.refusal = refusal

    def hostname(self, text: str) -> str:
        return text + ".weave.local."

    def check_on(self) -> None:
        pass

    async def give(self, owner: str, addresses: list[str], hostnames: list[str]) -> None:
        if self.refusal:
            raise LocalError(self.refusal)
        self.given.append((owner, list(addresses), list(hostnames)))


def with_names(refusal: str = "") -> tuple[Operator, Addressing, Names]:
    value, addressing, names = operator()[0], Addressing(), Names(refusal)

    async def known_owner(target: str) -> str:
        return "first-" + target

    value._addressing = cast(Any, addressing)
    value._attachments = cast(
        Any, SimpleNamespace(known_owner=known_owner, cidrs=lambda _owner: ["10.0.0.1/24"])
    )
    value.names = cast(Any, names)
    return value, addressing, names


def test_names_come_with_the_addresses() -> None:
    value, _, names = with_names()
    asyncio.run(value.attach("pid:7", ["10.0.0.1/24", "10.0.0.2/24"], there, Wishes(("web",))))
    asyncio.run(value.expose(["10.0.0.8/24"], there, masquerade=True, names=["one"]))
    assert names.given == [
        ("first-pid:7", ["10.0.0.1", "10.0.0.2"], ["web.weave.local."]),
        ("weave:expose", ["10.0.0.8"], ["one.weave.local."]),
    ]


def test_without_its_name_nothing_is_attached_or_exposed_that_was_not_before() -> None:
    value, addressing, _ = with_names("no room")
    with pytest.raises(LocalError, match="no room"):
        asyncio.run(value.attach("pid:7", ["10.0.0.1/24", "10.0.0.2/24"], there, Wishes(("web",))))
    with pytest.raises(LocalError, match="no room"):
        asyncio.run(value.expose(["10.0.0.8/24", "10.0.0.9/24"], there, masquerade=True, names=["one"]))
    assert addressing.taken == [("pid:7", "10.0.0.2/24"), ("10.0.0.8/24",)]
