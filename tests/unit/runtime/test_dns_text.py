"""The lines about names, as Weave Net prints them."""

from typing import Any

from weavepy.runtime.dnstext import dns_block, render_dns

ENTRY: dict[str, Any] = {
    "Hostname": "web.weave.local.",
    "Origin": "02:00:00:00:00:01",
    "ContainerID": "0123456789abcdef",
    "Address": "10.32.0.1",
    "Version": 0,
    "Tombstone": 0,
}
SECTION: dict[str, Any] = {
    "Domain": "weave.local.",
    "Upstream": ["10.0.0.1", "10.0.0.2"],
    "Address": "169.254.67.83:53",
    "TTL": 1,
    "Entries": [
        ENTRY,
        {**ENTRY, "Hostname": "gone.weave.local.", "Tombstone": 5},
        {**ENTRY, "Hostname": "a\x1bb.other.", "ContainerID": "c\n"},
    ],
}


def test_the_block_of_status() -> None:
    assert dns_block(SECTION) == [
        "",
        "        Service: dns",
        "         Domain: weave.local.",
        "       Upstream: 10.0.0.1, 10.0.0.2",
        "            TTL: 1",
        "        Entries: 2",
    ]
    assert dns_block({**SECTION, "Upstream": None, "Entries": None})[3:] == [
        "       Upstream: none",
        "            TTL: 1",
        "        Entries: 0",
    ]
    assert dns_block(None) == []


def test_a_line_for_each_that_lives() -> None:
    assert render_dns({"DNS": SECTION}) == (
        "web          10.32.0.1       0123456789ab 02:00:00:00:00:01\n"
        "a\\x1bb.other. 10.32.0.1                c\\n 02:00:00:00:00:01\n"
    )
    assert render_dns({"DNS": None}) == render_dns({}) == ""
