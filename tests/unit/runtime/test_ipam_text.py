"""What `weavepy status` says of addresses: Weave Net 2.8.1's lines, and what needs attention."""

import copy
from typing import Any

from test_status_text import UP, report

from weavepy.runtime.ipamtext import render_ipam
from weavepy.runtime.status import render_status, templated, verdict

OWN, TWO, LOST = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"


def entry(peer: str, nickname: str, size: int, *, known: bool = True) -> dict[str, Any]:
    return {"Token": "10.32.0.0", "Size": size, "Peer": peer, "Nickname": nickname, "IsKnownPeer": known}


SECTION: dict[str, Any] = {
    "Status": "ready",
    "Range": "10.32.0.0/24",
    "RangeNumIPs": 256,
    "ActiveIPs": 3,
    "DefaultSubnet": "10.32.0.0/25",
    "Entries": [
        entry(TWO, "two\x1b[2J", 64),
        entry(OWN, "one", 64),
        entry(LOST, "lost", 5, known=False),
        entry(OWN, "one", 123),
    ],
    "Waiting": [],
    "Warnings": [],
}


def with_section(**changes: Any) -> dict[str, Any]:
    return {**report(UP), "IPAM": {**copy.deepcopy(SECTION), **changes}}


def test_the_block_has_weaves_labels() -> None:
    text = render_status(with_section())
    assert (
        "\n\n        Service: ipam\n"
        "         Status: ready\n"
        "          Range: 10.32.0.0/24\n"
        "  DefaultSubnet: 10.32.0.0/25\n\n"
        "All well: 1 of 1 peers established"
    ) in text
    assert "ipam" not in render_status({**report(UP), "IPAM": None})


def test_the_lease_has_a_line_where_there_is_one() -> None:
    for contact, said in ((True, "in contact"), (False, "without contact")):
        text = render_status(with_section(Lease={"ReclaimAfter": 3600.0, "Contact": contact}))
        assert f"\n   ReclaimAfter: 3600 s ({said} with a majority)\n" in text


def test_what_needs_attention_is_a_warning_and_not_well() -> None:
    value = with_section(Warnings=["5 addresses belong to lost\x07"])
    text = render_status(value)
    assert "\nWarning: 5 addresses belong to lost\\x07\n" in text
    assert verdict(value) == (False, "Addresses need attention: see `weavepy ipam check`.")
    assert verdict(with_section())[0]


def test_shares_as_weave_prints_them_this_host_first() -> None:
    assert render_ipam(with_section()).splitlines() == [
        "02:00:00:00:00:01(one)                     187 IPs (73.0% of total) (3 active)",
        "02:00:00:00:00:02(two\\x1b[2J)               64 IPs (25.0% of total) ",
        "02:00:00:00:00:03(lost)                      5 IPs (02.0% of total) - unreachable!",
    ]


def test_below_them_who_waits_and_what_is_wrong() -> None:
    waiting = [{"Owner": "pid:7", "For": 2.5, "Reason": "space from two"}]
    value = with_section(Entries=None, ActiveIPs=0, Waiting=waiting, Warnings=["look out"])
    assert render_ipam(value) == "waiting: pid:7 for 2.5 s: space from two\nWarning: look out\n"
    assert render_ipam({**report(UP), "IPAM": None}) == ""


def test_a_host_alone_says_that_it_gives_out_addresses() -> None:
    nickname = report(UP)["Router"]["NickName"]
    value = with_section(Entries=None, ActiveIPs=3)
    assert render_ipam(value) == f"{OWN}({nickname}): 3 active, nothing divided yet\n"


def test_a_template_may_ask_whether_there_are_addresses() -> None:
    assert templated(with_section())["IPAM"]["Range"] == "10.32.0.0/24"
    assert templated({**report(UP), "IPAM": None})["IPAM"] is None
