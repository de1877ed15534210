"""Answers of our own, read by an independent decoder (dnslib)."""

import ipaddress

import pytest
from dnslib import EDNS0, QTYPE, DNSQuestion, DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from weavepy.wire.dns import NOERROR, NXDOMAIN, REFUSED, SERVFAIL, Query, decode_query_untrusted, encode_name
from weavepy.wire.dnsanswer import (
    Answer,
    Zone,
    encode_answer,
    encode_failure,
    encode_soa_data,
    encode_srv,
)

ZONE = Zone(encode_name("weave.local."), 7, 1)
BASE = int(ipaddress.IPv4Address("10.32.0.1"))


def asked(
    name: str = "wEb.Weave.local.", qtype: str = "A", payload: int | None = None, do: str = ""
) -> Query:
    record = DNSRecord(q=DNSQuestion(name, getattr(QTYPE, qtype)))
    record.header.id = 4711
    if payload is not None:
        record.add_ar(EDNS0(udp_len=payload, flags=do))
    return decode_query_untrusted(record.pack(), tcp=False)


def addresses(count: int) -> list[bytes]:
    return [(BASE + number).to_bytes(4, "big") for number in range(count)]


def read(data: bytes, query: Query) -> DNSRecord:
    record = DNSRecord.parse(data)
    assert data[12 : 12 + len(query.question)] == query.question
    assert (record.header.id, record.header.qr, record.header.ra, record.header.rd) == (4711, 1, 1, 1)
    assert len(record.questions) == 1
    edns = [rr for rr in record.ar if rr.rtype == QTYPE.OPT]
    assert bool(edns) == (query.payload is not None)
    return record


def test_addresses_with_the_name_as_it_was_asked() -> None:
    query = asked()
    record = read(encode_answer(query, Answer(NOERROR, True, addresses(3), 5), tcp=False), query)
    assert (record.header.aa, record.header.tc, record.header.rcode) == (1, 0, 0)
    assert [(str(rr.rname), rr.rtype, rr.rclass, rr.ttl, str(rr.rdata)) for rr in record.rr] == [
        ("wEb.Weave.local.", 1, 1, 5, f"10.32.0.{n}") for n in (1, 2, 3)
    ]
    assert (record.auth, record.ar) == ([], [])


def test_one_address_takes_sixteen_octets_more() -> None:
    query = asked()
    assert len(encode_answer(query, Answer(NOERROR, True, addresses(1), 1), tcp=False)) == query.size + 16


def test_a_no_says_how_long_it_holds() -> None:
    for rcode, authoritative in ((NXDOMAIN, False), (NOERROR, True)):
        query = asked(payload=1232, do="do")
        record = read(encode_answer(query, Answer(rcode, authoritative, zone=ZONE), tcp=False), query)
        assert (record.header.rcode, record.header.aa) == (rcode, authoritative)
        assert record.rr == []
        (soa,) = record.auth
        assert (str(soa.rname).lower(), soa.ttl, soa.rclass) == ("weave.local.", 1, 1)
        assert (str(soa.rdata.mname).lower(), str(soa.rdata.rname).lower()) == (
            "weave.local.",
            "hostmaster.weave.local.",
        )
        assert soa.rdata.times == (7, 3600, 3600, 3600, 1)
        (edns,) = record.ar
        assert (edns.edns_len, edns.edns_do, edns.edns_ver, edns.edns_rcode) == (1232, 1, 0, 0)


@pytest.mark.parametrize("name", ["web.", "weave.local.", "1.weave.local.", "a." * 100 + "weave.local."])
def test_a_no_about_any_name(name: str) -> None:
    query = asked(name)
    record = read(encode_answer(query, Answer(NXDOMAIN, zone=ZONE), tcp=False), query)
    assert str(record.auth[0].rname).lower() == "weave.local."


def test_records_of_names() -> None:
    query = asked("1.0.32.10.in-addr.arpa.", "PTR")
    record = read(
        encode_answer(query, Answer(NOERROR, True, [encode_name("Web.weave.local.")], 1), tcp=False), query
    )
    assert str(record.rr[0].rdata) == "Web.weave.local."
    query = asked("_http._tcp.web.weave.local.", "SRV")
    domain = encode_name("weave.local.")
    rdata = [encode_srv(1, 2, 8080, "a", domain), encode_srv(0, 0, 65535, "longer", domain)]
    record = read(encode_answer(query, Answer(NOERROR, True, rdata, 1), tcp=False), query)
    assert [(r.rdata.priority, r.rdata.weight, r.rdata.port, str(r.rdata.target)) for r in record.rr] == [
        (1, 2, 8080, "a.weave.local."),
        (0, 0, 65535, "longer.weave.local."),
    ]
    query = asked("weave.local.", "SOA")
    record = read(encode_answer(query, Answer(NOERROR, True, [encode_soa_data(ZONE)], 1), tcp=False), query)
    assert str(record.rr[0].rdata.rname) == "hostmaster.weave.local."


@given(
    st.integers(1, 120),
    st.none() | st.integers(0, 65535),
    st.sampled_from(["w.", "web.weave.local.", "a" * 63 + "."]),
)
def test_the_largest_prefix_that_fits(count: int, payload: int | None, name: str) -> None:
    query = asked(name, payload=payload)
    data = encode_answer(query, Answer(NOERROR, True, addresses(count), 1), tcp=False)
    record = read(data, query)
    limit = min(512 if payload is None else min(1232, max(512, payload)), 10 * query.size)
    assert len(data) <= limit
    assert record.header.tc == (len(record.rr) < count)
    if record.header.tc:
        assert len(data) + 16 > limit
    assert [rr.rdata.data for rr in record.rr] == [tuple(a) for a in addresses(len(record.rr))]
    whole = read(encode_answer(query, Answer(NOERROR, True, addresses(count), 1), tcp=True), query)
    assert (len(whole.rr), whole.header.tc) == (count, 0)


def test_no_answer_is_longer_than_tcp_carries() -> None:
    query = asked(payload=4096)
    data = encode_answer(query, Answer(NOERROR, True, addresses(5000), 1), tcp=True)
    assert 65535 - 16 < len(data) <= 65535
    assert read(data, query).header.tc == 1


def test_failures() -> None:
    query = asked(payload=600)
    record = read(encode_failure(query, SERVFAIL), query)
    assert (record.header.rcode, record.header.tc, record.rr, record.auth) == (SERVFAIL, 0, [], [])
    query = asked()
    data = encode_failure(query, REFUSED)
    assert len(data) == query.size
    assert read(data, query).header.rcode == REFUSED
    assert read(encode_failure(query, NOERROR, truncated=True), query).header.tc == 1


def test_checking_disabled_is_echoed() -> None:
    query = asked()._replace(flags=0x0110)
    for data in (
        encode_answer(query, Answer(NOERROR, True, addresses(1), 1), tcp=False),
        encode_failure(query, SERVFAIL),
    ):
        assert data[3] & 0x10
