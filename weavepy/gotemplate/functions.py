"""What Go's templates do with values: how they are printed, compared, counted and looked into.

Rules of this file. Values are what JSON has. A function raises ValueError with the reason when it can't do what it is
asked; whoever calls it says where. The thing people get wrong: in Python True is a number.
"""

import json
import math
import re
from collections.abc import Callable, Sequence

_VERB = re.compile(r"%(-?)([1-9][0-9]{0,2})?(?:\.([0-9]{1,2}))?(.?)", re.DOTALL)
_ESCAPED = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}  # in JSON, as Go does
_DEPTH_MAX = 64
_EXPONENT_MIN = 6  # from a million on, a number with a fraction is printed with an exponent
_KINDS = {"a number": (int, float), "a text": (str,), "a truth value": (bool,)}


def is_true(value: object) -> bool:
    """Tells whether `if` takes a value for true: what isn't empty, 0, false or nothing."""
    return bool(value)


def kind_of(value: object) -> str:
    """Returns what a value is, in words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "a truth value"
    for kind, types in _KINDS.items():
        if isinstance(value, types):
            return kind
    return (
        "a list" if isinstance(value, list | tuple) else "an object" if isinstance(value, dict) else "unknown"
    )


def show(value: object, depth: int = 0) -> str:
    """Returns a value as Go's %v prints it."""
    if depth > _DEPTH_MAX:
        raise ValueError("the value is too deep")
    match value:
        case None:
            return "<nil>"
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case int():
            return str(value)
        case float():
            return show_float(value)
        case list() | tuple():
            return f"[{' '.join(show(item, depth + 1) for item in value)}]"
        case dict():
            pairs = (f"{key}:{show(value[key], depth + 1)}" for key in sorted(value, key=str))
            return f"map[{' '.join(pairs)}]"
    raise ValueError("the value can't be printed")


def less_its_size(left: int, value: object, depth: int = 0) -> int:
    """Returns `left` less the characters that `show` needs at least, or something negative: no further is looked."""
    if isinstance(value, str):
        return left - len(value)
    if isinstance(value, list | tuple | dict) and depth <= _DEPTH_MAX:
        for item in value:
            left -= 1
            if isinstance(value, dict):
                left, item = left - len(str(item)), value[item]
            left = less_its_size(left, item, depth + 1)
            if left < 0:
                break
    return left


def show_float(value: float) -> str:
    """Returns a number as Go's %v prints a float64: the shortest digits that mean it."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    digits = 1
    while float(f"{abs(value):.{digits - 1}e}") != abs(value):
        digits += 1
    mantissa, _, exponent = f"{abs(value):.{digits - 1}e}".partition("e")
    sign = "-" if math.copysign(1, value) < 0 else ""
    if -4 <= int(exponent) < _EXPONENT_MIN:
        return f"{sign}{abs(value):.{max(0, digits - 1 - int(exponent))}f}"
    return f"{sign}{mantissa}e{exponent}"


def to_json(value: object) -> str:
    """Returns a value as JSON on one line."""
    try:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, RecursionError):
        raise ValueError("the value has no JSON") from None
    return text.translate(_ESCAPED)


def length(value: object) -> int:
    """Returns how many items a list or an object has, or bytes a text."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, list | tuple | dict):
        return len(value)
    raise ValueError(f"len of {kind_of(value)}")


def item(value: object, key: object) -> object:
    """Returns an item of a list by its number, or of an object by its name: nothing, if it isn't there."""
    if isinstance(value, list | tuple):
        if not isinstance(key, int) or isinstance(key, bool):
            raise ValueError(f"an item of a list has a number, not {kind_of(key)}")
        if not 0 <= key < len(value):
            raise ValueError(f"there is no item {key} in a list of {len(value)}")
        return value[key]
    if isinstance(value, dict):
        if not isinstance(key, str):
            raise ValueError(f"an item of an object has a name, not {kind_of(key)}")
        return value.get(key)
    raise ValueError(f"index into {kind_of(value)}")


def equal(one: object, other: object) -> bool:
    """Compares two values of one kind that isn't a list or an object."""
    if one is None or other is None:
        return one is other
    _comparable(one, other)
    return one == other


def less(one: object, other: object) -> bool:
    """Orders two numbers or two texts."""
    if _comparable(one, other) == "a truth value":
        raise ValueError("truth values have no order")
    return bool(one < other)  # type: ignore[operator]


def _comparable(one: object, other: object) -> str:
    kind = kind_of(one)
    if kind != kind_of(other):
        raise ValueError(f"{kind} can't be compared with {kind_of(other)}")
    if kind not in _KINDS:
        raise ValueError(f"{kind} can't be compared")
    return kind


def join(values: Sequence[object]) -> str:
    """Returns values as `print` does: a space between two of which neither is a text."""
    text = ""
    for i, value in enumerate(values):
        spaced = i > 0 and not isinstance(value, str) and not isinstance(values[i - 1], str)
        text += f" {show(value)}" if spaced else show(value)
    return text


def printf(layout: object, values: Sequence[object]) -> str:
    """Returns values by a layout with %s %v %d %f %q %t, each with a width of up to 3 digits, and %%."""
    if not isinstance(layout, str):
        raise ValueError(f"printf takes a text first, not {kind_of(layout)}")
    left = list(values)

    def fill(found: re.Match[str]) -> str:
        minus, width, precision, verb = found.groups()
        if found[0] == "%%":
            return "%"
        if verb not in _VERBS or (precision is not None and verb != "f"):
            raise ValueError(f"printf has no {found[0]!r}")
        if not left:
            raise ValueError(f"nothing is left for {found[0]!r}")
        text = _VERBS[verb](left.pop(0), int(precision or 6))
        return text.ljust(int(width or 0)) if minus else text.rjust(int(width or 0))

    text = _VERB.sub(fill, layout)
    if left:
        raise ValueError(f"the layout has no place for {show(left[0])[:40]!r}")
    return text


def _wanted(verb: str, value: object, *types: type) -> object:
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise ValueError(f"%{verb} can't print {kind_of(value)}")
    return value


_VERBS: dict[str, Callable[[object, int], str]] = {
    "v": lambda value, _: show(value),
    "s": lambda value, _: show(_wanted("s", value, str)),
    "d": lambda value, _: str(_wanted("d", value, int)),
    "f": lambda value, precision: f"{_wanted('f', value, float):.{precision}f}",
    "q": lambda value, _: json.dumps(_wanted("q", value, str), ensure_ascii=False),
    "t": lambda value, _: show(_wanted("t", value, bool)),
}
