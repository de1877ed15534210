"""Every recorded gob stream is read as recorded, and written byte for byte if our writer knows its type."""

import json
from pathlib import Path

import pytest

from weavepy.wire.gob import GobReader
from weavepy.wire.gobwriter import Basic, GobWriter, Map, Pointer, Schema, Slice, Struct
from weavepy.wire.topology import CONNECTION_LIST, CONNECTION_SUMMARY, PEER_SUMMARY

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "gob.json").read_text())["vectors"]

POINT = Struct("tPoint", (("X", Basic.INT), ("Y", Basic.INT)))
STRINGS = Slice(Basic.STRING)
COUNTS = Map(Basic.STRING, Basic.INT, "map[string]int")
MIX = Struct(
    "tMix",
    (
        ("B", Basic.BOOL),
        ("I", Basic.INT),
        ("U", Basic.UINT),
        ("F", Basic.FLOAT),
        ("S", Basic.STRING),
        ("Bs", Basic.BYTES),
        ("L", STRINGS),
        ("M", COUNTS),
        ("P", Pointer(POINT)),
        ("N", POINT),
    ),
)
SCHEMAS: dict[str, tuple[Schema, ...]] = {
    "bool": (Basic.BOOL,),
    "int64": (Basic.INT,),
    "uint64": (Basic.UINT,),
    "float64": (Basic.FLOAT,),
    "string": (Basic.STRING,),
    "[]byte": (Basic.BYTES,),
    "[]string": (STRINGS,),
    "map[string]string": (Map(Basic.STRING, Basic.STRING),),
    "mesh.PeerName(uint64)": (Basic.UINT,),
    "[]mesh.PeerName": (Slice(Basic.UINT),),
    "map[mesh.PeerName]string": (Map(Basic.UINT, Basic.STRING),),
    "struct tPoint{X,Y int}": (POINT,),
    "stream of 2 tPoint": (POINT, POINT),
    "tMix": (MIX,),
    "mesh.peerSummary": (PEER_SUMMARY,),
    "[]mesh.connectionSummary": (CONNECTION_LIST,),
    "peerSummary then []connectionSummary in one stream": (PEER_SUMMARY, CONNECTION_LIST),
    "string, PeerName, []byte in one stream": (Basic.STRING, Basic.UINT, Basic.BYTES),
    "string, PeerName, PeerName, []byte in one stream": (Basic.STRING, Basic.UINT, Basic.UINT, Basic.BYTES),
}
# The numbers that the recording process had given out, in this order, with one more for an interface type.
PROCESS_IDS: dict[Schema, int] = {
    STRINGS: 65,
    Map(Basic.STRING, Basic.STRING): 66,
    Slice(Basic.UINT): 67,
    Map(Basic.UINT, Basic.STRING): 68,
    POINT: 69,
    MIX: 70,
    COUNTS: 71,
    PEER_SUMMARY: 73,
    CONNECTION_SUMMARY: 74,
    CONNECTION_LIST: 75,
}


def read_all(data: bytes) -> list[object]:
    reader, values = GobReader(data), []
    while not reader.at_end:
        values.append(reader.read())
    return values


def as_json(value: object) -> object:
    """The recording writes 64-bit integers as decimal strings and octets as hex."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): as_json(member) for key, member in value.items()}
    if isinstance(value, list):
        return [as_json(member) for member in value]
    return str(value) if type(value) is int else value


def canonical(value: object) -> object:
    if isinstance(value, dict):
        return {key: canonical(member) for key, member in value.items()}
    if isinstance(value, list):
        return [canonical(member) for member in value]
    return str(value) if type(value) is int else value


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_reads_as_recorded(vector: dict) -> None:
    values = read_all(bytes.fromhex(vector["hex"]))
    want = vector["value"]
    if vector["name"] == "map[string]string nil":
        want = {}  # at the top level nil and empty are the same octets
    if vector["go_type"] == "float64":
        assert values == [float(want)]
        return
    assert as_json(values if len(values) > 1 else values[0]) == canonical(want)


@pytest.mark.parametrize(
    "vector",
    [vector for vector in VECTORS if vector["go_type"] in SCHEMAS],
    ids=lambda vector: vector["name"],
)
def test_writes_the_same_octets_as_go(vector: dict) -> None:
    data = bytes.fromhex(vector["hex"])
    writer = GobWriter(ids=dict(PROCESS_IDS))
    for schema, value in zip(SCHEMAS[vector["go_type"]], read_all(data), strict=True):
        writer.write(schema, value)
    assert writer.getvalue() == data


def test_only_the_interface_vectors_are_not_written() -> None:
    assert len(VECTORS) == 62
    assert {vector["go_type"] for vector in VECTORS} - SCHEMAS.keys() == {"tIface"}


def test_numbers_types_in_the_order_that_go_does() -> None:
    writer = GobWriter()
    ids: dict[Schema, int] = {}
    GobWriter(ids).write(MIX, {})
    assert ids == {MIX: 65, STRINGS: 66, COUNTS: 67, POINT: 68}
    writer.write(CONNECTION_LIST, [])
    # The list is 66 (ff84) and is defined first; the struct in it is 65 (ff82).
    assert writer.getvalue().startswith(bytes.fromhex("0dff83020102ff840001ff820000 5bff81"))
