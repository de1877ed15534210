"""Peer names: every recorded spelling, and the name that goes with a key."""

import hashlib
import json
from pathlib import Path

import pytest

from weavepy.errors import WireError
from weavepy.wire.peername import (
    NAME_MAX,
    format_peer_name,
    parse_peer_name,
    peer_name_of_key,
    real_peer_name,
)

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "peer_names.json").read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: repr(vector["input"]))
def test_spellings_as_recorded(vector: dict) -> None:
    if not vector["ok"]:
        with pytest.raises(WireError):
            parse_peer_name(vector["input"])
        return
    name = parse_peer_name(vector["input"])
    assert name == int(vector["uint"]) == int(vector["bytes"], 16)
    assert format_peer_name(name) == vector["canonical"]


@pytest.mark.parametrize(
    "text",
    [
        "::",
        "1::2::3",
        "1:2:3:4:5::",
        "::1:2:3:4:5",
        " ::1",
        "::1\n",
        ":1:2:3:4:5:6",
        "1:2:3:4:5:",
        "\u0661:2:3:4:5:6",
        "123::",
    ],
)
def test_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(WireError):
        parse_peer_name(text)


def test_an_error_shows_only_the_beginning_of_a_long_text() -> None:
    with pytest.raises(WireError) as caught:
        parse_peer_name("x" * 10_000)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("number", [0, -1, NAME_MAX + 1, True, "1", None, 1.0, b"\1"])
def test_what_is_nobodys_name(number: object) -> None:
    with pytest.raises(WireError):
        real_peer_name(number)


def test_the_name_of_a_key_is_a_local_unicast_address_from_its_hash() -> None:
    for n in range(64):
        key = bytes([n]) * 32
        name = peer_name_of_key(key).to_bytes(6, "big")
        digest = hashlib.blake2s(key).digest()
        assert name[0] & 0x03 == 0x02
        assert (name[0] & 0xFC, name[1:]) == (digest[0] & 0xFC, digest[1:6])
