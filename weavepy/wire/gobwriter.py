"""Writes Go's gob encoding, byte for byte as Go's encoder does.

Rules of this file. A value is written by its schema, never by guessing from the Python type: Go takes a
signed number for an unsigned field as an error, and closes the connection. Type numbers follow Go's order: a
list or map after what it contains, a struct before. A struct field that is zero or empty is left out, but a
struct inside a struct and a map that exists (even an empty one) never are.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, TypeAlias

from weavepy.wire import gob


class Basic(IntEnum):
    """The types that need no definition; the values are their ids."""

    BOOL = gob.BOOL
    INT = gob.INT
    UINT = gob.UINT
    FLOAT = gob.FLOAT
    BYTES = gob.BYTES
    STRING = gob.STRING


@dataclass(frozen=True, slots=True)
class Struct:
    name: str
    fields: tuple[tuple[str, "Schema"], ...]


@dataclass(frozen=True, slots=True)
class Slice:
    element: "Schema"
    name: str = ""


@dataclass(frozen=True, slots=True)
class Map:
    key: "Schema"
    element: "Schema"
    name: str = ""


@dataclass(frozen=True, slots=True)
class Pointer:
    """A field that may be absent; transparent on the wire."""

    target: "Schema"


Schema: TypeAlias = Basic | Struct | Slice | Map | Pointer


class Encoded(bytes):
    """A value that is encoded already; it stands for itself wherever its schema is a slice."""


_FIRST_ID: Final = 65  # Go's own first number
_END: Final = b"\0"
_SMALL: Final = [bytes([n]) for n in range(128)]


class GobWriter:
    """Builds one gob stream. Raises ValueError (or TypeError) for a value that its schema can't hold.

    Structs are mappings from field names to values; an absent field is zero. A Go process numbers a type
    once, here each stream does, unless several are given the same `ids`.
    """

    def __init__(self, ids: dict[Schema, int] | None = None) -> None:
        self._ids = {} if ids is None else ids
        self._defined: set[int] = set()
        self._out = bytearray()

    def write(self, schema: Schema, value: Any) -> None:
        """Appends `value`, preceded by the definitions that the stream doesn't have yet."""
        self.write_encoded(schema, encode_value(schema, value))

    def write_encoded(self, schema: Schema, encoded: bytes) -> None:
        """Appends a value that `encode_value` (or something faster) has encoded already."""
        type_id = self._number(schema)
        self._define(schema)
        self._message(encode_int(type_id) + (b"" if isinstance(schema, Struct) else _END) + encoded)

    def getvalue(self) -> bytes:
        """Returns the stream so far."""
        return bytes(self._out)

    def _message(self, body: bytes) -> None:
        self._out += encode_uint(len(body))
        self._out += body

    def _number(self, schema: Schema) -> int:
        if isinstance(schema, Basic):
            return schema.value
        if isinstance(schema, Pointer):
            return self._number(schema.target)
        if schema in self._ids:
            return self._ids[schema]
        if isinstance(schema, Struct):
            self._assign(schema)
        for member in _members(schema):
            self._number(member)
        return self._ids[schema] if isinstance(schema, Struct) else self._assign(schema)

    def _assign(self, schema: Schema) -> int:
        return self._ids.setdefault(schema, _FIRST_ID + len(self._ids))

    def _define(self, schema: Schema) -> None:
        if isinstance(schema, Pointer):
            self._define(schema.target)
            return
        type_id = self._number(schema)
        if isinstance(schema, Basic) or type_id in self._defined:
            return
        self._defined.add(type_id)
        self._message(encode_int(-type_id) + self._definition(schema, type_id))
        for member in _members(schema):
            self._define(member)

    def _definition(self, schema: Struct | Slice | Map, type_id: int) -> bytes:
        """Encodes a wireType: field 2 is a slice, 3 a struct, 4 a map; their field 1 is the CommonType."""
        name = schema.name.encode()
        common = b"\1" + (b"\1" + encode_octets(name) + b"\1" if name else b"\2") + encode_int(type_id) + _END
        members = [encode_int(self._number(member)) for member in _members(schema)]
        if isinstance(schema, Slice):
            return b"\2" + common + b"\1" + members[0] + _END + _END
        if isinstance(schema, Map):
            return b"\4" + common + b"\1" + members[0] + b"\1" + members[1] + _END + _END
        body = b"".join(
            b"\1" + encode_octets(field.encode()) + b"\1" + member + _END
            for (field, _), member in zip(schema.fields, members, strict=True)
        )
        fields = b"\1" + encode_uint(len(members)) + body if members else b""
        return b"\3" + common + fields + _END + _END


def _members(schema: Struct | Slice | Map) -> tuple[Schema, ...]:
    if isinstance(schema, Struct):
        return tuple(member for _, member in schema.fields)
    return (schema.element,) if isinstance(schema, Slice) else (schema.key, schema.element)


def encode_value(schema: Schema, value: Any) -> bytes:
    """Encodes one value without its type, as it stands inside another."""
    match schema:
        case Basic():
            return _encode_basic(schema, value)
        case Pointer():
            return encode_value(schema.target, value)
        case Slice():
            if isinstance(value, Encoded):
                return value
            return encode_uint(len(value)) + b"".join(
                encode_value(schema.element, member) for member in value
            )
        case Map():
            pairs = (
                encode_value(schema.key, key) + encode_value(schema.element, member)
                for key, member in value.items()
            )
            return encode_uint(len(value)) + b"".join(pairs)
        case Struct():
            return _encode_struct(schema, value)


def _encode_struct(schema: Struct, value: Mapping[str, Any]) -> bytes:
    out = bytearray()
    last = -1
    for index, (name, member) in enumerate(schema.fields):
        field = value.get(name)
        if isinstance(member, Struct):
            field = field or {}
        elif field is None or (not isinstance(member, Map | Pointer) and not field):
            continue
        out += encode_uint(index - last)
        out += encode_value(member, field)
        last = index
    return bytes(out) + _END


def _encode_basic(kind: Basic, value: Any) -> bytes:
    match kind:
        case Basic.BOOL:
            return b"\1" if value else b"\0"
        case Basic.INT:
            return encode_int(value)
        case Basic.UINT:
            return encode_uint(value)
        case Basic.FLOAT:
            return encode_uint(int.from_bytes(struct.pack("<d", value), "big"))
        case Basic.BYTES:
            return encode_octets(value)
        case Basic.STRING:
            return encode_octets(value.encode())


def encode_uint(number: int) -> bytes:
    """Encodes 0 to 2^64 - 1: one octet below 128, else the negated length and the number's octets."""
    if 0 <= number < 128:
        return _SMALL[number]
    if not 0 < number < 1 << 64:
        raise ValueError("gob: not an unsigned 64-bit number")
    length = (number.bit_length() + 7) // 8
    return bytes([256 - length]) + number.to_bytes(length, "big")


def encode_int(number: int) -> bytes:
    """Encodes a signed 64-bit number: shifted left, complemented if negative, the low bit telling which."""
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError("gob: not a signed 64-bit number")
    return encode_uint(~number << 1 | 1 if number < 0 else number << 1)


def encode_octets(octets: bytes) -> bytes:
    return encode_uint(len(octets)) + octets
