"""Whatever we can say arrives as we said it, and whatever is read can be said again."""

from hypothesis import given, settings
from hypothesis import strategies as st

from weavepy import limits
from weavepy.events import PeerName
from weavepy.wire.fastpath import (
    CIPHER_CODES,
    Epoch,
    EpochAck,
    FastpathFeature,
    Start,
    decode_fastpath_feature_untrusted,
    decode_overlay_control_untrusted,
    encode_fastpath_feature,
    encode_overlay_control,
)
from weavepy.wire.features import Features, decode_features_untrusted, encode_features
from weavepy.wire.gob import GobReader
from weavepy.wire.gobwriter import Basic, GobWriter, Map, Slice, Struct
from weavepy.wire.messages import (
    Broadcast,
    Gossip,
    Message,
    OverlayControl,
    Unicast,
    decode_message_untrusted,
    encode_message,
)
from weavepy.wire.peername import format_peer_name, parse_peer_name
from weavepy.wire.topology import ConnectionSummary, PeerRecord, decode_topology_untrusted, encode_topology

U8, U16, U64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 64))
NAMES = st.integers(1, (1 << 48) - 1).map(PeerName)


def texts(bytes_max: int) -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=bytes_max).filter(
        lambda text: len(text.encode()) <= bytes_max
    )


CONNECTIONS = st.builds(
    ConnectionSummary, NAMES, texts(limits.ADDRESS_BYTES_MAX), st.booleans(), st.booleans()
)
RECORDS = st.builds(
    PeerRecord,
    NAMES,
    texts(limits.NICKNAME_BYTES_MAX),
    U64,
    U64,
    U16,
    st.booleans(),
    st.lists(CONNECTIONS, max_size=5).map(tuple),
)
WORDS = st.text(st.sampled_from("abcdefghij-"), min_size=1, max_size=12)
CHANNELS = texts(limits.CHANNEL_NAME_BYTES_MAX).filter(lambda name: name not in ("IPallocation", "topology"))


@given(NAMES)
def test_peer_names(name: PeerName) -> None:
    assert parse_peer_name(format_peer_name(name)) == name


@given(st.lists(RECORDS, max_size=5))
def test_topology(records: list[PeerRecord]) -> None:
    assert decode_topology_untrusted(encode_topology(records)) == records


@given(
    st.builds(
        Features,
        NAMES,
        texts(limits.NICKNAME_BYTES_MAX),
        U64,
        U64,
        st.none() | st.integers(0, 4095),
        st.booleans(),
        st.none() | st.lists(WORDS, max_size=4).map(tuple),
        st.none() | texts(64),
    )
)
def test_features(features: Features) -> None:
    assert decode_features_untrusted(encode_features(features)) == features


@given(
    st.builds(Gossip, CHANNELS, NAMES, st.binary())
    | st.builds(Broadcast, CHANNELS, NAMES, st.binary())
    | st.builds(Unicast, CHANNELS, NAMES, NAMES, st.binary())
    | st.builds(OverlayControl, st.integers(0, 1), U8, st.binary())
)
def test_messages(message: Message) -> None:
    assert decode_message_untrusted(encode_message(message)) == message


@given(
    st.builds(
        Start,
        st.integers(1, 255),
        st.sampled_from(sorted(CIPHER_CODES)),
        st.integers(1, limits.LANES_MAX),
        st.integers(1, (1 << 16) - 1),
        st.integers(1, (1 << 32) - 1),
    )
    | st.builds(Epoch, U64)
    | st.builds(EpochAck, U64)
)
def test_overlay_control(message: Start | Epoch | EpochAck) -> None:
    assert decode_overlay_control_untrusted(*encode_overlay_control(message)) == message


@given(
    st.builds(
        FastpathFeature,
        st.lists(st.integers(1, 255), min_size=1, max_size=16).map(tuple),
        st.lists(WORDS, min_size=1, max_size=4).map(tuple),
        st.integers(limits.OVERLAY_MTU_MIN, 65535),
    )
)
def test_fastpath_feature(feature: FastpathFeature) -> None:
    assert decode_fastpath_feature_untrusted(encode_fastpath_feature(feature)) == feature


# A schema together with a value of it. An omitted field comes back absent, so none is zero.
LEAVES = st.sampled_from(
    [
        (Basic.BOOL, True),
        (Basic.INT, -(1 << 63)),
        (Basic.INT, 64),
        (Basic.UINT, (1 << 64) - 1),
        (Basic.FLOAT, -0.5),
        (Basic.BYTES, b"\0\xff"),
        (Basic.STRING, "é"),
    ]
)
TYPED = st.recursive(
    LEAVES,
    lambda inner: (
        inner.map(lambda typed: (Slice(typed[0]), [typed[1]] * 2))
        | inner.map(lambda typed: (Map(Basic.UINT, typed[0], "m"), {1: typed[1], 1 << 40: typed[1]}))
        | st.lists(inner, min_size=1, max_size=4).map(
            lambda members: (
                Struct("s", tuple((f"F{n}", schema) for n, (schema, _) in enumerate(members))),
                {f"F{n}": value for n, (_, value) in enumerate(members)},
            )
        )
    ),
    max_leaves=8,
)


@settings(max_examples=300)
@given(st.lists(TYPED, min_size=1, max_size=3))
def test_gob_of_any_type(typed: list) -> None:
    writer = GobWriter()
    for schema, value in typed:
        writer.write(schema, value)
    reader = GobReader(writer.getvalue())
    assert [reader.read() for _ in typed] == [value for _, value in typed]
    assert reader.at_end
