"""Reads Go's gob encoding, as far as Weave Net uses it.

Rules of this file. Whatever the bytes are, reading ends in a value or in WireError, in time and memory
proportional to their number: a count is believed only as far as there are bytes left for it, and nesting
stops at `limits.GOB_DEPTH_MAX`, which is also what makes self-referential types harmless. Omitted struct
fields are absent from the result, since for Weave an absent map and an empty one differ. A type may be named
before it is defined, so ids are looked up when a value needs them and not before.
"""

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NoReturn, TypeAlias

from weavepy import limits
from weavepy.errors import WireError

BOOL, INT, UINT, FLOAT, BYTES, STRING, COMPLEX, INTERFACE = range(1, 9)
FIRST_USER_TYPE: Final = 64


@dataclass(frozen=True, slots=True)
class _Struct:
    fields: tuple[tuple[str, int], ...]
    is_flat: bool = False  # nothing but unsigned numbers


@dataclass(frozen=True, slots=True)
class _List:
    element: int
    length: int | None  # of an array; a slice has none


@dataclass(frozen=True, slots=True)
class _Map:
    key: int
    element: int


@dataclass(frozen=True, slots=True)
class _Opaque:
    """A Go type that encodes itself; its value is read as bytes."""


_Type: TypeAlias = _Struct | _List | _Map | _Opaque

_DEFINITION_BYTES_MAX: Final = 512  # larger ones are read each time
_WIRE_TYPE: Final = 16
_BOOTSTRAP: Final[dict[int, _Type]] = {
    _WIRE_TYPE: _Struct(
        (
            ("ArrayT", 17),
            ("SliceT", 19),
            ("StructT", 20),
            ("MapT", 23),
            ("GobEncoderT", 24),
            ("BinaryMarshalerT", 24),
            ("TextMarshalerT", 24),
        )
    ),
    17: _Struct((("CommonType", 18), ("Elem", INT), ("Len", INT))),
    18: _Struct((("Name", STRING), ("Id", INT))),
    19: _Struct((("CommonType", 18), ("Elem", INT))),
    20: _Struct((("CommonType", 18), ("Field", 22))),
    21: _Struct((("Name", STRING), ("Id", INT))),
    22: _List(21, None),
    23: _Struct((("CommonType", 18), ("Key", INT), ("Elem", INT))),
    24: _Struct((("CommonType", 18),)),
}


class GobReader:
    """Reads the values of one gob stream, one after the other.

    Values are int, bool, float, str, bytes, list and dict; a struct is a dict from field names to the values
    that were sent; a nil interface is None. A composite map key becomes nested tuples, a struct among them a
    tuple of (field, value) pairs. Octets of a string that aren't UTF-8 turn into U+FFFD: one host with an odd
    name must not cut others off.
    """

    __slots__ = ("_data", "_depth", "_elements", "_end", "_pos", "_types")

    def __init__(self, data: bytes, position: int = 0) -> None:
        self._data = bytes(data)
        self._pos = position
        self._end = len(self._data)  # of the message being read
        self._types: dict[int, _Type] = {}
        self._elements = 0  # how many more elements of lists and maps this value may have
        self._depth = 0

    @property
    def at_end(self) -> bool:
        """True when the stream ended where a message may."""
        return self._pos == len(self._data)

    @property
    def position(self) -> int:
        """Where the next message begins. Whoever sets it has found a message's beginning by other means."""
        return self._pos

    @position.setter
    def position(self, position: int) -> None:
        self._pos = position

    def find_value(self) -> tuple[int, int, int]:
        """Passes everything up to and with the next value unread: (its type, where its message begins, where it
        ends). Raises WireError.
        """
        while True:
            start = self._pos
            type_id = self._begin_message()
            self._pos = self._end
            if type_id >= 0:
                return type_id, start, self._end

    def define_until(self, position: int) -> None:
        """Reads the definitions before `position`, and passes the values unread. Raises WireError."""
        while self._pos < position:
            type_id = self._begin_message()
            if type_id < 0:
                self._define(-type_id)
                self._finish_message()
            self._pos = self._end

    def struct_fields(self, type_id: int) -> tuple[tuple[str, int], ...] | None:
        """Returns the fields (name, type) of a struct, None for what is none."""
        found = self._types.get(type_id)
        return found.fields if isinstance(found, _Struct) else None

    def slice_element(self, type_id: int) -> int | None:
        """Returns the type of a slice's elements, None for what is no slice."""
        found = self._types.get(type_id)
        return found.element if isinstance(found, _List) and found.length is None else None

    def read(self, elements_max: int | None = None) -> object:
        """Returns the next value; raises WireError, also at the end of the stream.

        `elements_max` bounds the elements of all lists and maps of the value together.
        """
        while (type_id := self._begin_message()) < 0:
            self._define(-type_id)
            self._finish_message()
        self._elements = self._end - self._pos if elements_max is None else elements_max
        value = self._top_value(type_id)
        self._finish_message()
        return value

    def _begin_message(self) -> int:
        """Returns the type of the next message, negative for a definition."""
        self._end = len(self._data)
        if self._pos == self._end:
            raise WireError("gob: the stream ended, another value was expected")
        length = self._uint()
        if not 0 < length <= self._end - self._pos:
            raise WireError("gob: message longer than the stream, or empty")
        self._end = self._pos + length
        return self._int()

    def _finish_message(self) -> None:
        if self._pos != self._end:
            raise WireError("gob: octets left over in a message")

    # ---- types ---------------------------------------------------------------------------------------------

    def _define(self, type_id: int) -> None:
        if type_id < FIRST_USER_TYPE or type_id in self._types:
            raise WireError("gob: type id reserved or defined twice")
        if len(self._types) >= limits.GOB_TYPES_MAX:
            raise WireError("gob: too many types")
        if self._end - self._pos > _DEFINITION_BYTES_MAX:
            self._types[type_id] = self._definition()
            return
        self._types[type_id] = _known_definition(self._data[self._pos : self._end])
        self._pos = self._end

    def _definition(self) -> _Type:
        self._elements = limits.GOB_FIELDS_MAX
        definition = self._value(_WIRE_TYPE)
        if not isinstance(definition, dict) or len(definition) != 1:
            raise WireError("gob: a definition has to have exactly one kind")
        ((kind, body),) = definition.items()
        if len(body.get("CommonType", {}).get("Name", "").encode()) > limits.GOB_NAME_BYTES_MAX:
            raise WireError("gob: type name too long")
        return _type_of(kind, body)

    def _type(self, type_id: int) -> _Type:
        found = self._types.get(type_id) or _BOOTSTRAP.get(type_id)
        if found is None:
            raise WireError("gob: type not defined")
        return found

    # ---- values --------------------------------------------------------------------------------------------

    def _top_value(self, type_id: int) -> object:
        if (type_id <= INTERFACE or not isinstance(self._type(type_id), _Struct)) and self._uint() != 0:
            raise WireError("gob: a value that is no struct starts with 0")
        return self._value(type_id)

    def _value(self, type_id: int) -> object:
        if type_id == STRING:
            return self._octets().decode(errors="replace")
        if type_id == BYTES:
            return self._octets()
        if type_id == UINT:
            return self._uint()
        if type_id == BOOL:
            return self._uint() != 0
        if type_id == INT:
            return self._int()
        if type_id == FLOAT:
            return struct.unpack("<d", self._uint().to_bytes(8, "big"))[0]
        if self._depth >= limits.GOB_DEPTH_MAX:
            raise WireError("gob: nested too deeply")
        self._depth += 1
        value = self._interface() if type_id == INTERFACE else self._composite(self._type(type_id))
        self._depth -= 1
        return value

    def _composite(self, kind: _Type) -> object:
        if isinstance(kind, _Struct):
            return self._struct(kind.fields)
        if isinstance(kind, _List):
            count = self._count(1)
            if kind.length is not None and count != kind.length:
                raise WireError("gob: array of another length than declared")
            element = self._types.get(kind.element)
            if isinstance(element, _Struct) and element.is_flat and self._depth < limits.GOB_DEPTH_MAX:
                return [self._flat_struct(element.fields) for _ in range(count)]
            return [self._value(kind.element) for _ in range(count)]
        if isinstance(kind, _Map):
            return {
                _hashable(self._value(kind.key)): self._value(kind.element) for _ in range(self._count(2))
            }
        return self._octets()

    def _struct(self, fields: tuple[tuple[str, int], ...]) -> dict[str, object]:
        value: dict[str, object] = {}
        index = -1
        while delta := self._uint():
            index += delta
            if index >= len(fields):
                raise WireError("gob: struct has no such field")
            name, type_id = fields[index]
            value[name] = self._value(type_id)
        return value

    def _flat_struct(self, fields: tuple[tuple[str, int], ...]) -> dict[str, object]:
        """Reads a struct of nothing but unsigned numbers, of which a large ring has thousands: `_struct` for these."""
        data, pos, end = self._data, self._pos, self._end
        value: dict[str, object] = {}
        index = -1
        is_delta = True
        while pos < end:
            first = data[pos]
            pos += 1
            if first >= 0x80:
                stop = pos + 256 - first
                if first < 0xF8 or stop > end:
                    break
                first = int.from_bytes(data[pos:stop], "big")
                pos = stop
            if not is_delta:
                value[fields[index][0]] = first
            elif not first:
                self._pos = pos
                return value
            else:
                index += first
                if index >= len(fields):
                    break
            is_delta = not is_delta
        raise WireError("gob: octets missing in a struct of numbers, or a wrong one")

    def _interface(self) -> object:
        name = self._octets()
        if not name:
            return None
        if len(name) > limits.GOB_NAME_BYTES_MAX:
            raise WireError("gob: type name too long")
        type_id, length = self._int(), self._uint()
        end = self._pos + length
        if end > self._end:
            raise WireError("gob: interface value longer than its message")
        value = self._top_value(type_id)
        if self._pos != end:
            raise WireError("gob: interface value of another length than declared")
        return value

    # ---- primitives ----------------------------------------------------------------------------------------

    def _count(self, octets_each: int) -> int:
        count = self._uint()
        if count * octets_each > self._end - self._pos or count > self._elements:
            raise WireError("gob: more elements than there can be")
        self._elements -= count
        return count

    def _octets(self) -> bytes:
        length = self._uint()
        start = self._pos
        if length > self._end - start:
            raise WireError("gob: octets missing")
        self._pos = start + length
        return self._data[start : start + length]

    def _int(self) -> int:
        number = self._uint()
        return ~(number >> 1) if number & 1 else number >> 1

    def _uint(self) -> int:
        pos = self._pos
        if pos >= self._end:
            self._missing()
        first = self._data[pos]
        if first < 0x80:
            self._pos = pos + 1
            return first
        stop = pos + 257 - first
        if first < 0xF8:
            raise WireError("gob: integer of more than 64 bits")
        if stop > self._end:
            self._missing()
        self._pos = stop
        return int.from_bytes(self._data[pos + 1 : stop], "big")

    def _missing(self) -> NoReturn:
        raise WireError("gob: octets missing")


@lru_cache(maxsize=256)
def _known_definition(octets: bytes) -> _Type:
    """Reads a definition alone. Each message defines its types anew, and there are few."""
    reader = GobReader(octets)
    found = reader._definition()
    reader._finish_message()
    return found


def _type_of(kind: str, body: dict[str, object]) -> _Type:
    """Makes a type of one member of Go's wireType. Absent numbers are 0, which is nobody's type id."""
    if kind == "StructT":
        listed = body.get("Field", [])
        assert isinstance(listed, list)
        fields = tuple((field.get("Name", ""), field.get("Id", 0)) for field in listed)
        if any(len(name.encode()) > limits.GOB_NAME_BYTES_MAX for name, _ in fields):
            raise WireError("gob: field name too long")
        return _Struct(fields, all(type_id == UINT for _, type_id in fields))
    if kind == "SliceT":
        return _List(_number(body, "Elem"), None)
    if kind == "ArrayT":
        return _List(_number(body, "Elem"), _number(body, "Len"))
    if kind == "MapT":
        return _Map(_number(body, "Key"), _number(body, "Elem"))
    return _Opaque()


def _number(body: dict[str, object], name: str) -> int:
    number = body.get(name, 0)
    assert isinstance(number, int)
    return number


def _hashable(value: object) -> object:
    if isinstance(value, dict):
        return tuple((name, _hashable(member)) for name, member in value.items())
    if isinstance(value, list):
        return tuple(_hashable(member) for member in value)
    return value
