"""Our rules stay: put back when they are gone, left alone while they are there, and trouble is told once."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from weavepy.errors import LocalError
from weavepy.linux.firewall import Exposure
from weavepy.runtime import firewall as module
from weavepy.runtime.firewall import Firewall

EXPOSED = [Exposure("10.32.1.9/24", True)]


class Filter:
    """nft and iptables; `fails` is what nft says instead of obeying."""

    def __init__(self) -> None:
        self.table = ""
        self.fails = ""
        self.installed: list[Sequence[Exposure]] = []
        self.forwarding: list[Sequence[Exposure]] = []

    def install(self, exposures: Sequence[Exposure]) -> tuple[str, list[str]]:
        if self.fails:
            raise LocalError(self.fails)
        self.installed.append(exposures)
        self.table = f"ours for {len(exposures)}"
        return self.table, []

    def keep(self, exposures: Sequence[Exposure]) -> bool:
        self.forwarding.append(exposures)
        return False


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> Filter:
    value = Filter()
    monkeypatch.setattr(module, "install", value.install)
    monkeypatch.setattr(module, "listing", lambda: value.table)
    monkeypatch.setattr(module, "keep_forwarding", value.keep)
    monkeypatch.setattr(module, "start_forwarding", list)
    return value


def run(scenario: Any) -> None:
    async def everything() -> None:
        with ThreadPoolExecutor(1) as executor:
            await scenario(Firewall(executor))

    asyncio.run(everything())


def test_what_is_flushed_or_changed_comes_back_and_what_is_there_stays(rules: Filter) -> None:
    async def scenario(firewall: Firewall) -> None:
        await firewall.apply(EXPOSED)
        await firewall.check()
        assert len(rules.installed) == 1
        for table in ("", "changed"):
            rules.table = table
            await firewall.check()
            assert rules.table == "ours for 1"
        assert [list(exposures) for exposures in rules.installed] == [EXPOSED] * 3
        assert [list(exposures) for exposures in rules.forwarding] == [EXPOSED] * 4

    run(scenario)


def test_rules_that_could_not_be_made_are_tried_again_and_told_of_once(
    rules: Filter, caplog: pytest.LogCaptureFixture
) -> None:
    rules.fails = "nft isn't installed here"
    caplog.set_level(logging.WARNING)

    async def scenario(firewall: Firewall) -> None:
        with pytest.raises(LocalError):
            await firewall.apply([])
        for _ in range(3):
            await firewall.check()
        assert [record.message for record in caplog.records] == [
            "rules can't be kept in the packet filter: nft isn't installed here"
        ]
        rules.fails = ""
        await firewall.check()
        assert rules.table == "ours for 0"

    run(scenario)
