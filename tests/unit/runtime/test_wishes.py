"""What `attach` may be asked for beside addresses."""

import asyncio
from typing import Any

import pytest

from weavepy.errors import LocalError
from weavepy.runtime import wishes as module
from weavepy.runtime.wishes import Wishes, parse_wishes


def test_nothing_is_wished_unless_it_is_said() -> None:
    assert parse_wishes({}) == Wishes()


@pytest.mark.parametrize(
    ("text", "line"),
    [("db:10.32.0.7", "10.32.0.7\tdb"), ("a.b-c:::1", "::1\ta.b-c"), ("x:[fd00::1]", "fd00::1\tx")],
)
def test_lines_for_the_hosts_file(text: str, line: str) -> None:
    assert parse_wishes({"hosts": [text]}).hosts == (line,)


@pytest.mark.parametrize(
    "text", ["db", "db:", ":1.2.3.4", "a b:1.2.3.4", "a\n1.2.3.4 b:1.2.3.4", "db:10.32.0.777"]
)
def test_what_is_no_line_is_refused(text: str) -> None:
    with pytest.raises(LocalError, match="NAME:ADDRESS"):
        parse_wishes({"hosts": [text]})


@pytest.mark.parametrize(
    "body", [{"rewrite_hosts": 1}, {"without_dns": "yes"}, {"names": "web"}, {"hosts": [1]}]
)
def test_values_of_another_type_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(LocalError, match="must be"):
        parse_wishes(body)


def test_what_is_told_and_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, list[str]]] = []
    checked: list[str] = []
    monkeypatch.setattr(module, "write_hosts", lambda target, lines: written.append((target, lines)))
    monkeypatch.setattr(module, "check_hosts", checked.append)
    quiet = Wishes(("web", "web", "a.b"), ("::1\tx",), True, True).qualified(lambda text: text + ".local.")

    async def scenario() -> None:
        await Wishes(("web",)).check("netns:a")
        await Wishes(("web",)).write("netns:a", ["10.0.0.1"])
        assert (checked, written) == ([], [])
        await quiet.check("pid:1")
        await quiet.write("pid:1", ["10.0.0.1"])

    asyncio.run(scenario())
    assert (quiet.told, Wishes(("web",)).told) == ((), ("web",))
    assert checked == ["pid:1"]
    assert written == [("pid:1", ["10.0.0.1\tweb.local web", "10.0.0.1\ta.b.local a", "::1\tx"])]


@pytest.mark.parametrize(
    ("wishes", "why"),
    [
        (Wishes(("web",), without_dns=True), "told to nobody"),
        (Wishes(rewrite_hosts=True), "say which, with -h NAME"),
    ],
)
def test_what_makes_no_sense_is_refused(wishes: Wishes, why: str) -> None:
    with pytest.raises(LocalError, match=why):
        asyncio.run(wishes.check("pid:1"))
