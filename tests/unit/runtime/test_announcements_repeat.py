"""When addresses are announced, on a loop whose clock jumps from timer to timer: nothing waits."""

import asyncio
import selectors
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import pytest

from weavepy.runtime import announcements as module
from weavepy.runtime.announcements import Announcements

HERE = [(bytes(6), "10.32.1.1/24")]


class AtOnce(Executor):
    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_result(function(*args, **kwargs))
        return future


class Jumping(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Adds to the loop's clock what it would have waited."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout:
            self.passed += timeout
        return super().select(0)


def play(scenario: Callable[[Callable[[], float]], Any]) -> None:
    selector = Jumping()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.passed  # type: ignore[method-assign]
    try:
        loop.run_until_complete(scenario(loop.time))
    finally:
        loop.close()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[tuple[bytes, str]]]:
    heard: list[Sequence[tuple[bytes, str]]] = []
    monkeypatch.setattr(module, "announce", heard.append)
    return heard


def test_it_is_said_twice_whenever_there_is_a_connection_again(said: list[Any]) -> None:
    async def scenario(now: Callable[[], float]) -> None:
        times = []
        up = lambda: 5.0 <= now() < 20.0 or now() >= 30.0  # noqa: E731

        def known() -> list[tuple[bytes, str]]:
            times.append(round(now(), 1))
            return HERE

        task = asyncio.ensure_future(Announcements(AtOnce(), connected=up, known=known).run())
        await asyncio.sleep(100.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        first, second, third, fourth = times
        assert (5.0 <= first <= 5.3, round(second - first, 1)) == (True, 2.0)
        assert (30.0 <= third <= 30.3, round(fourth - third, 1)) == (True, 2.0)
        assert said == [HERE] * 4

    play(scenario)


def test_what_has_gone_meanwhile_is_not_repeated(said: list[Any]) -> None:
    async def scenario(_now: Callable[[], float]) -> None:
        announcements = Announcements(AtOnce(), connected=lambda: True, known=list)
        announcements.repeat(list)
        announcements.repeat(lambda: HERE)
        await asyncio.sleep(3.0)
        assert said == [HERE]

    play(scenario)
