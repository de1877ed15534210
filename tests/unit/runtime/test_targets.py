"""Targets: names to addresses, now and again later."""

import asyncio

import pytest

from weavepy.errors import LocalError
from weavepy.events import Address, ConnectPeers, Event, ForgetPeers
from weavepy.runtime import targets as module
from weavepy.runtime.targets import Targets

ONE, TWO = Address("10.0.0.1", 0), Address("10.0.0.2", 0)


class RecordingConnector:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.states: dict[str, str] = {}

    def handle(self, event: Event) -> None:
        self.events.append(event)

    def targets(self) -> dict[str, str]:
        return self.states


class Book:
    """A resolver that can be changed."""

    def __init__(self, **entries: Address) -> None:
        self.entries = entries
        self.asked: list[str] = []

    async def __call__(self, name: str) -> Address:
        self.asked.append(name)
        if name not in self.entries:
            raise LocalError(f"cannot resolve {name}")
        return self.entries[name]


@pytest.fixture
def book(monkeypatch: pytest.MonkeyPatch) -> Book:
    value = Book(one=ONE, two=TWO)
    monkeypatch.setattr(module, "resolve", value)
    return value


@pytest.mark.usefixtures("book")
def test_a_typing_mistake_is_told_and_not_kept() -> None:
    connector = RecordingConnector()
    targets = Targets(connector)
    failed = asyncio.run(targets.connect(["one", "oen", "one"], replace=False, keep_unresolved=False))
    assert failed == {"oen": "cannot resolve oen"}
    assert connector.events == [ConnectPeers((("one", ONE),), False)]
    assert targets.unresolved == {}


@pytest.mark.usefixtures("book")
def test_nothing_is_replaced_by_mistakes_alone() -> None:
    connector = RecordingConnector()
    asyncio.run(Targets(connector).connect(["oen"], replace=True, keep_unresolved=False))
    assert connector.events == []


def test_at_a_start_a_name_without_address_is_kept_and_asked_for_again(book: Book) -> None:
    connector = RecordingConnector()
    targets = Targets(connector)
    asyncio.run(targets.connect(["one", "late"], replace=False, keep_unresolved=True))
    assert list(targets.unresolved) == ["late"]
    assert targets.with_unresolved("targets", ["one"]) == ["one", "late"]
    assert targets.with_unresolved("other", ["one"]) == ["one"]
    asyncio.run(targets.refresh())
    assert list(targets.unresolved) == ["late"]
    book.entries["late"] = TWO
    asyncio.run(targets.refresh())
    assert targets.unresolved == {}
    assert connector.events[-1] == ConnectPeers((("late", TWO),))


def test_a_peer_that_moved_is_found_again(book: Book) -> None:
    connector = RecordingConnector()
    targets = Targets(connector)
    asyncio.run(targets.connect(["one", "two", "10.0.0.9"], replace=False, keep_unresolved=True))
    connector.states = {"one": "failed: no answer", "two": "established", "10.0.0.9": "failed: no answer"}
    connector.events.clear()
    book.asked.clear()
    asyncio.run(targets.refresh())
    assert connector.events == []  # still where it was
    book.entries["one"] = TWO
    asyncio.run(targets.refresh())
    assert connector.events == [ConnectPeers((("one", TWO),))]
    assert "two" not in book.asked  # it is connected


@pytest.mark.usefixtures("book")
def test_forgetting() -> None:
    connector = RecordingConnector()
    targets = Targets(connector)
    asyncio.run(targets.connect(["late"], replace=False, keep_unresolved=True))
    targets.forget(["late", "one"])
    assert targets.unresolved == {}
    assert connector.events == [ForgetPeers(("late", "one"))]


@pytest.mark.usefixtures("book")
def test_replacing_forgets_what_had_no_address() -> None:
    connector = RecordingConnector()
    targets = Targets(connector)
    asyncio.run(targets.connect(["late"], replace=False, keep_unresolved=True))
    asyncio.run(targets.connect(["one"], replace=True, keep_unresolved=False))
    assert targets.unresolved == {}
    assert connector.events == [ConnectPeers((("one", ONE),), True)]
