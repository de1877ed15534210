"""The decoder of DNS queries: what it takes, what it answers with an error, what it doesn't answer."""

import struct

import pytest
from dnslib import EDNS0, DNSQuestion, DNSRecord, EDNSOption
from hypothesis import given
from hypothesis import strategies as st

from weavepy import limits
from weavepy.errors import WireError
from weavepy.wire import dns
from weavepy.wire.dns import Query, QueryError, decode_query_untrusted, encode_name, with_payload

TAIL = b"\0\1\0\1"
WEB = b"\3web\5weave\5local\0" + TAIL


def header(*, id_: int = 0x1234, flags: int = 0x0100, counts: tuple[int, ...] = (1, 0, 0, 0)) -> bytes:
    return struct.pack(">6H", id_, flags, *counts)


def opt(payload: int = 4096, *, version: int = 0, flags: int = 0, options: bytes = b"") -> bytes:
    return struct.pack(">BHHBBHH", 0, 41, payload, 0, version, flags, len(options)) + options


def with_opt(record: bytes, question: bytes = WEB) -> bytes:
    return header(counts=(1, 0, 0, 1)) + question + record


def reply_to(data: bytes, *, tcp: bool = False) -> bytes:
    with pytest.raises(QueryError) as caught:
        decode_query_untrusted(data, tcp=tcp)
    return caught.value.reply


def test_a_plain_query() -> None:
    data = header(flags=0x0110) + WEB
    assert decode_query_untrusted(data, tcp=False) == Query(
        0x1234, 0x0110, "web.weave.local.", 1, 1, WEB, None, False, len(data)
    )


def test_case_is_kept_in_the_question_only() -> None:
    question = b"\3wEb\5WEAVE\5lOcAl\0" + TAIL
    query = decode_query_untrusted(header() + question, tcp=False)
    assert query.question == question
    assert query.name == "web.weave.local."


def test_flags_that_mean_nothing_in_a_query_are_passed_over() -> None:
    query = decode_query_untrusted(header(flags=0x07EF) + WEB, tcp=False)
    assert query.flags == 0x0100


@pytest.mark.parametrize(
    ("question", "name"),
    [
        (b"\0", "."),
        (b"\3web\0", "web."),
        (b"\x05_http\x04_tcp\x03w-1\0", "_http._tcp.w-1."),
        (b"\3a.b\1c\0", "a\\046b.c."),
        (b"\1\\\0", "\\092."),
        (b"\4\0 \xff\xc3\0", "\\000\\032\\255\\195."),
        (b"\x05local\x06\5local\0", "local.\\005local."),
        (b"\x0f" + b"web.weave.local" + b"\0", "web\\046weave\\046local."),
        (
            (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"b" * 61 + b"\0",
            ".".join(["a" * 63] * 3 + ["b" * 61]) + ".",
        ),
        (b"\1a" * 127 + b"\0", "a." * 127),
    ],
)
def test_names(question: bytes, name: str) -> None:
    assert decode_query_untrusted(header() + question + TAIL, tcp=False).name == name


FORMERR = [
    ("no question", header(counts=(0, 0, 0, 0))),
    ("two questions", header(counts=(2, 0, 0, 0)) + WEB + WEB),
    ("an answer", header(counts=(1, 1, 0, 0)) + WEB),
    ("an authority", header(counts=(1, 0, 1, 0)) + WEB),
    ("two additional records", header(counts=(1, 0, 0, 2)) + WEB + opt() + opt()),
    ("a pointer", header() + b"\xc0\x0c" + TAIL),
    ("a pointer after a label", header() + b"\3web\xc0\x0c" + TAIL),
    ("a label of 64", header() + b"\x40" + b"a" * 64 + b"\0" + TAIL),
    ("a label type of the past", header() + b"\x80" + TAIL),
    ("a name of 256", header() + (b"\x3f" + b"a" * 63) * 3 + b"\x3e" + b"b" * 62 + b"\0" + TAIL),
    ("a name of 128 labels", header() + b"\1a" * 128 + b"\0" + TAIL),
    ("no end of the name", header() + b"\3web"),
    ("a label beyond the end", header() + b"\x3fweb"),
    ("no type", header() + b"\3web\0"),
    ("half a class", header() + b"\3web\0\0\1\0"),
    ("type 0", header() + b"\3web\0\0\0\0\1"),
    ("type OPT", header() + b"\3web\0\0\x29\0\1"),
    ("octets after it", header() + WEB + b"\0"),
    ("no additional record", header(counts=(1, 0, 0, 1)) + WEB),
    ("half an OPT", with_opt(opt()[:-1])),
    ("an OPT with a name", with_opt(b"\1a" + opt())),
    ("not an OPT", with_opt(opt().replace(b"\0\x29", b"\0\x01", 1))),
    ("options longer than the rest", with_opt(opt(options=b"1234")[:-1])),
    ("octets after the OPT", with_opt(opt() + b"\0")),
    ("more than 512 octets", with_opt(opt(options=bytes(512)))),
]


@pytest.mark.parametrize("data", [data for _, data in FORMERR], ids=[name for name, _ in FORMERR])
def test_what_deserves_formerr(data: bytes) -> None:
    reply = reply_to(data)
    assert reply == header(flags=0x8181, counts=(0, 0, 0, 0))
    assert len(reply) <= len(data)


def test_lengths_by_udp_and_tcp() -> None:
    def of(length: int) -> bytes:
        return with_opt(opt(options=bytes(length - 12 - len(WEB) - 11)))

    decode_query_untrusted(of(512), tcp=False)
    reply_to(of(513))
    decode_query_untrusted(of(1024), tcp=True)
    reply_to(of(1025), tcp=True)


@pytest.mark.parametrize("opcode", range(1, 16))
def test_other_operations_get_notimp(opcode: int) -> None:
    reply = reply_to(header(flags=opcode << 11 | 0x0100) + WEB)
    assert reply == header(flags=0x8184 | opcode << 11, counts=(0, 0, 0, 0))


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 11, header(flags=0x8180) + WEB, header(flags=0xA000), header(flags=0x8000)[:12]]
)
def test_what_is_no_query_gets_silence(data: bytes) -> None:
    with pytest.raises(WireError) as caught:
        decode_query_untrusted(data, tcp=False)
    assert not isinstance(caught.value, QueryError)


def test_another_version_of_edns_gets_badvers() -> None:
    reply = DNSRecord.parse(reply_to(with_opt(opt(version=1))))
    (record,) = reply.ar
    assert (reply.header.id, reply.header.qr, reply.header.rcode, record.edns_ver) == (0x1234, 1, 0, 0)
    assert (reply.header.aa, reply.header.tc, reply.header.rd, reply.header.ra) == (0, 0, 1, 1)
    assert record.edns_rcode == 1  # 16 with the header's four bits
    assert str(reply.q.qname) == "web.weave.local."


def test_edns_is_read() -> None:
    query = decode_query_untrusted(
        with_opt(opt(1400, flags=0x8000, options=b"\0\x0a\0\x08" + bytes(8))), tcp=False
    )
    assert (query.payload, query.dnssec_ok) == (1400, True)
    assert not decode_query_untrusted(with_opt(opt(0)), tcp=False).dnssec_ok


@pytest.mark.parametrize(
    ("payload", "limit"), [(None, 512), (0, 512), (511, 512), (600, 600), (1232, 1232), (65535, 1232)]
)
def test_what_a_client_takes(payload: int | None, limit: int) -> None:
    data = header() + WEB if payload is None else with_opt(opt(payload))
    assert dns.udp_limit(decode_query_untrusted(data, tcp=False)) == limit


def test_a_query_that_is_passed_on_asks_for_no_more_than_we_pass_back() -> None:
    for record, expected in ((opt(4096, flags=0x8000, options=b"\0\x0a\0\0"), 1232), (opt(100), 512)):
        data = with_opt(record)
        sent = with_payload(data, decode_query_untrusted(data, tcp=False))
        query = decode_query_untrusted(sent, tcp=False)
        assert query.payload == expected
        assert len(sent) == len(data)
        assert query == decode_query_untrusted(data, tcp=False)._replace(payload=expected)
    plain = header() + WEB
    assert with_payload(plain, decode_query_untrusted(plain, tcp=False)) == plain


LABEL = st.text(alphabet="abcXYZ019-_", min_size=1, max_size=63)


@given(
    st.lists(LABEL, min_size=1, max_size=3),
    st.integers(0, 65535),
    st.sampled_from([1, 12, 28, 33, 255]),
    st.none() | st.integers(0, 65535),
    st.booleans(),
)
def test_what_dnslib_encodes_is_decoded(
    labels: list[str], id_: int, qtype: int, payload: int | None, do: bool
) -> None:
    name = ".".join(labels) + "."
    record = DNSRecord(q=DNSQuestion(name, qtype))
    record.header.id = id_
    if payload is not None:
        record.add_ar(EDNS0(udp_len=payload, flags="do" if do else "", opts=[EDNSOption(10, b"12345678")]))
    data = record.pack()
    query = decode_query_untrusted(data, tcp=False)
    assert (query.id, query.name, query.qtype, query.qclass) == (id_, name.lower(), qtype, 1)
    assert (query.payload, query.dnssec_ok) == (payload, do and payload is not None)
    assert data[12 : 12 + len(query.question)] == query.question


@given(st.binary(max_size=1100), st.booleans())
def test_anything_else_is_refused(data: bytes, tcp: bool) -> None:
    size = None
    try:
        size = decode_query_untrusted(data, tcp=tcp).size
    except QueryError as error:
        reply = error.reply
    except WireError:
        reply = b""
    if size is None:
        assert len(reply) <= len(data) + 11
    else:
        assert size == len(data) <= limits.DNS_TCP_QUERY_BYTES_MAX


@given(
    st.lists(st.binary(min_size=1, max_size=63), max_size=3),
    st.lists(st.binary(min_size=1, max_size=63), max_size=3),
)
def test_two_names_are_the_same_text_only_if_they_differ_in_case(
    one: list[bytes], other: list[bytes]
) -> None:
    def text(labels: list[bytes]) -> str:
        question = b"".join(bytes([len(label)]) + label for label in labels) + b"\0" + TAIL
        return decode_query_untrusted(header() + question, tcp=False).name

    assert (text(one) == text(other)) == ([a.lower() for a in one] == [b.lower() for b in other])


@pytest.mark.parametrize("name", ["", "a..b", "." * 2, "a" * 64, "ä.b", ".".join(["a" * 63] * 4)])
def test_names_that_cannot_be_encoded(name: str) -> None:
    with pytest.raises(ValueError, match=r"octets|ascii"):
        encode_name(name)


def test_names_are_encoded() -> None:
    assert encode_name("Web.weave.local") == encode_name("Web.weave.local.") == b"\3Web\5weave\5local\0"
    assert encode_name(".") == b"\0"
