"""One control connection: handshake, messages, deadlines."""

import pytest

from weavepy import limits
from weavepy.crypto.handshake import Handshake
from weavepy.errors import RemoteProtocolError, WireError
from weavepy.events import Address, ConnId, PeerName
from weavepy.mesh.connection import Connection
from weavepy.wire.features import Features
from weavepy.wire.messages import Gossip, Heartbeat, Unknown

LOCAL, REMOTE = Address("10.0.0.1", 1), Address("10.0.0.2", 2)
HELLO = Gossip("topology", PeerName(1), b"hello")


def end(number: int, *, outbound: bool, password: bytes | None = b"secret") -> Connection:
    features = Features(PeerName(number), "", number, number << 8, None, False, ("fastpath",), None)
    handshake = Handshake(
        outbound=outbound, password=password, features=features, ephemeral=bytes([number]) * 32
    )
    return Connection(
        ConnId(number),
        handshake,
        outbound=outbound,
        remote=REMOTE,
        local=LOCAL,
        path_mtu=1500,
        own_conn_id=number << 8,
        now=100.0,
    )


def connected(password: bytes | None = b"secret") -> tuple[Connection, Connection]:
    dialler, acceptor = end(1, outbound=True, password=password), end(2, outbound=False, password=password)
    to_acceptor, to_dialler = dialler.start(), acceptor.start()
    for _ in range(4):
        to_dialler, to_acceptor = (
            acceptor.receive_untrusted(to_acceptor, 101.0) + to_dialler if to_acceptor else to_dialler,
            b"",
        )
        to_acceptor, to_dialler = (dialler.receive_untrusted(to_dialler, 101.0) if to_dialler else b"", b"")
        if dialler.features and acceptor.features:
            break
    return dialler, acceptor


@pytest.mark.parametrize("password", [b"secret", None])
def test_both_ends_agree(password: bytes | None) -> None:
    dialler, acceptor = connected(password)
    assert dialler.features is not None
    assert acceptor.features is not None
    assert (dialler.features.name, acceptor.features.name) == (2, 1)
    assert dialler.uid == acceptor.uid == (1 << 8) ^ (2 << 8)
    assert dialler.session_key == acceptor.session_key
    assert (dialler.session_key is None) is (password is None)


def test_messages_arrive_in_order_however_they_are_cut() -> None:
    dialler, acceptor = connected()
    data = dialler.seal(HELLO) + dialler.seal(Heartbeat()) + dialler.seal(HELLO)
    received = []
    for octet in data:
        assert acceptor.receive_untrusted(bytes([octet]), 102.0) == b""
        received += list(acceptor.take_messages())
    assert received == [HELLO, Heartbeat(), HELLO]


def test_messages_that_come_with_the_last_of_the_handshake_wait_until_they_are_taken() -> None:
    dialler, acceptor = end(1, outbound=True), end(2, outbound=False)
    features = dialler.receive_untrusted(acceptor.start(), 100.0)
    answer = acceptor.receive_untrusted(dialler.start() + features, 100.0)
    assert dialler.receive_untrusted(answer + acceptor.seal(HELLO), 100.0) == b""
    assert dialler.features is not None
    assert list(dialler.take_messages()) == [HELLO]
    assert list(dialler.take_messages()) == []


def test_nothing_is_sent_or_known_before_the_handshake_is_done() -> None:
    connection = end(1, outbound=True)
    assert connection.features is None
    assert connection.session_key is None
    with pytest.raises(ValueError, match="handshake"):
        connection.seal(HELLO)
    with pytest.raises(ValueError, match="handshake"):
        _ = connection.uid


def test_handshake_deadline_is_for_all_of_it() -> None:
    connection = end(2, outbound=False)
    deadline = connection.next_timer()
    assert deadline == 100.0 + limits.PREAUTH_TIMEOUT_S
    connection.receive_untrusted(b"weave", 102.9)
    assert connection.handle_timer(102.99) == b""
    assert connection.next_timer() == deadline
    with pytest.raises(RemoteProtocolError, match="no handshake"):
        connection.handle_timer(deadline)


def test_silence_ends_it_and_any_message_does_for_life() -> None:
    dialler, acceptor = connected()
    now = 101.0
    for _ in range(5):
        now += limits.TCP_READ_TIMEOUT_S - 1
        assert dialler.handle_timer(now) != b""  # a heartbeat
        dialler.receive_untrusted(acceptor.seal(Heartbeat()), now)
    with pytest.raises(RemoteProtocolError, match="no message"):
        dialler.handle_timer(now + limits.TCP_READ_TIMEOUT_S)


def test_heartbeats_are_sent_every_30_s() -> None:
    dialler, acceptor = connected()
    assert dialler.next_timer() == 101.0 + limits.TCP_HEARTBEAT_S
    assert dialler.handle_timer(130.9) == b""
    acceptor.receive_untrusted(dialler.handle_timer(131.0), 131.0)
    assert list(acceptor.take_messages()) == [Heartbeat()]
    assert dialler.handle_timer(131.0) == b""


def test_parts_of_a_message_are_no_sign_of_life() -> None:
    dialler, acceptor = connected()
    frame = dialler.seal(HELLO)
    acceptor.receive_untrusted(frame[:-1], 130.0)
    with pytest.raises(RemoteProtocolError, match="no message"):
        acceptor.handle_timer(101.0 + limits.TCP_READ_TIMEOUT_S)


def test_garbage_raises_when_it_is_taken_and_altered_frames_when_they_arrive() -> None:
    dialler, acceptor = connected()
    assert dialler._result is not None
    acceptor.receive_untrusted(dialler._result.channel.seal(b"\x63"), 102.0)
    assert list(acceptor.take_messages()) == [Unknown(0x63)]
    acceptor.receive_untrusted(dialler._result.channel.seal(b"\x04nonsense"), 102.0)
    with pytest.raises(WireError):
        list(acceptor.take_messages())
    frame = bytearray(dialler.seal(HELLO))
    frame[-1] ^= 1
    with pytest.raises(RemoteProtocolError):
        acceptor.receive_untrusted(bytes(frame), 102.0)


def test_wrong_password_is_named() -> None:
    dialler, acceptor = end(1, outbound=True), end(2, outbound=False, password=b"other")
    features = dialler.receive_untrusted(acceptor.start(), 100.0)
    with pytest.raises(RemoteProtocolError, match="wrong password"):
        acceptor.receive_untrusted(dialler.start() + features, 100.0)
