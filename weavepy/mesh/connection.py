"""One control connection: handshake, then messages with heartbeats, as a state machine.

Rules of this file. Bytes in, bytes and messages out; no policy about who may connect. Until the peer has
authenticated it gets `limits.PREAUTH_TIMEOUT_S` altogether, afterwards `limits.TCP_READ_TIMEOUT_S` from
message to message. The thing people get wrong: messages that arrive together with the end of the handshake
wait in `take_messages` until the connection has been registered, or the first gossip would find a mesh
without it.
"""

from collections import deque
from collections.abc import Iterator

from weavepy import limits
from weavepy.crypto.handshake import Handshake, HandshakeResult
from weavepy.errors import RemoteProtocolError
from weavepy.events import Address, ConnId
from weavepy.wire.features import Features
from weavepy.wire.messages import Heartbeat, Message, decode_message_untrusted, encode_message


class Connection:
    """The control connection `conn`. `features` are those of the peer, None until it has authenticated."""

    def __init__(
        self,
        conn: ConnId,
        handshake: Handshake,
        *,
        outbound: bool,
        remote: Address,
        local: Address,
        path_mtu: int,
        own_conn_id: int,
        now: float,
    ) -> None:
        self.conn = conn
        self.outbound = outbound
        self.remote = remote
        self.local = local
        self.path_mtu = path_mtu
        self.opened_at = now
        self._own_conn_id = own_conn_id
        self._handshake = handshake
        self._result: HandshakeResult | None = None
        self._plaintexts: deque[bytes] = deque()
        self._read_deadline = now + limits.PREAUTH_TIMEOUT_S
        self._heartbeat_at: float | None = None

    @property
    def features(self) -> Features | None:
        """What the peer says about itself, once that is authenticated."""
        return None if self._result is None else self._result.features

    @property
    def session_key(self) -> bytes | None:
        """The key agreed on, None without a password."""
        return None if self._result is None else self._result.session_key

    @property
    def uid(self) -> int:
        """The number by which both ends know this connection."""
        if self._result is None:
            raise ValueError("the connection has no UID before the handshake is done")
        return self._own_conn_id ^ self._result.features.conn_id

    def start(self) -> bytes:
        """Returns the bytes to send first, maybe none."""
        return self._handshake.start()

    def receive_untrusted(self, data: bytes, now: float) -> bytes:
        """Takes bytes from the peer and returns the answer of the handshake, maybe none. Raises
        RemoteProtocolError.
        """
        if self._result is not None:
            self._open(self._result, data, now)
            return b""
        answer = self._handshake.receive(data)
        self._result = self._handshake.result
        if self._result is not None:
            self._read_deadline = now + limits.TCP_READ_TIMEOUT_S
            self._heartbeat_at = now + limits.TCP_HEARTBEAT_S
            self._open(self._result, self._result.leftover, now)
        return answer

    def take_messages(self) -> Iterator[Message]:
        """Yields the messages received so far. Raises WireError at one that can't be decoded."""
        while self._plaintexts:
            yield decode_message_untrusted(self._plaintexts.popleft())

    def seal(self, message: Message) -> bytes:
        """Returns the bytes that carry `message`."""
        if self._result is None:
            raise ValueError("nothing can be sent before the handshake is done")
        return self._result.channel.seal(encode_message(message))

    def next_timer(self) -> float:
        """Returns when `handle_timer` is due."""
        return (
            self._read_deadline
            if self._heartbeat_at is None
            else min(self._read_deadline, self._heartbeat_at)
        )

    def handle_timer(self, now: float) -> bytes:
        """Returns the heartbeat if one is due. Raises RemoteProtocolError when the peer was silent for too
        long.
        """
        if now >= self._read_deadline:
            if self._result is None:
                raise RemoteProtocolError(f"no handshake within {limits.PREAUTH_TIMEOUT_S:g} s")
            raise RemoteProtocolError(f"no message for {limits.TCP_READ_TIMEOUT_S:g} s")
        if self._heartbeat_at is None or now < self._heartbeat_at:
            return b""
        self._heartbeat_at = now + limits.TCP_HEARTBEAT_S
        return self.seal(Heartbeat())

    def _open(self, result: HandshakeResult, data: bytes, now: float) -> None:
        plaintexts = result.channel.open(data)
        if plaintexts:
            self._read_deadline = now + limits.TCP_READ_TIMEOUT_S
            self._plaintexts.extend(plaintexts)
