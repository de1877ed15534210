"""Cuts a template into texts and actions, and actions into tokens.

Rules of this file. Every token knows where it stands, and whether a space is before it: `.A.B` is one value and
`.A .B` are two. The thing people get wrong: `}}` in a string ends no action.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from weavepy import limits
from weavepy.errors import LocalError

_WHITE = " \t\r\n"
_ACTION = re.compile(r"\{\{(-(?=\s))?")
_COMMENT = re.compile(r"\s*/\*.*?\*/", re.DOTALL)
_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<close>(?:(?<=\s)-)?\}\})
      | (?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
      | (?P<number>[+-]?[0-9][0-9A-Za-z_.]*(?:(?<=[eE])[+-][0-9]+)?)
      | (?P<field>\.[^\W\d]\w*)
      | (?P<variable>\$\w*)
      | (?P<word>[^\W\d]\w*)
      | (?P<mark>:=|[=|(),.])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\'\"])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL
)
_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_FLOAT = re.compile(r"[+-]?[0-9]{1,40}(?=[.eE])(\.[0-9]{0,40})?([eE][+-]?[0-9]{1,3})?")


class TemplateError(LocalError):
    """A template that is none, asks for what isn't there, or is too much work."""


@dataclass(frozen=True, slots=True)
class Text:
    """What stands outside of actions."""

    text: str


@dataclass(frozen=True, slots=True)
class Token:
    """One piece of an action. `kind` is string, number, field, variable, word, mark or end; `value` what it means."""

    kind: str
    value: object
    at: int
    spaced: bool


@dataclass(frozen=True, slots=True)
class Action:
    """What stands between {{ and }}; its last token is of kind end."""

    tokens: tuple[Token, ...]


class Source:
    """A template's text, which knows lines and columns."""

    def __init__(self, text: str) -> None:
        if len(text) > limits.TEMPLATE_CHARS_MAX:
            raise TemplateError(f"the template is longer than {limits.TEMPLATE_CHARS_MAX} characters")
        self.text = text

    def error(self, at: int, reason: str) -> TemplateError:
        """Returns the error to raise about what stands at `at`."""
        line = self.text.count("\n", 0, at) + 1
        column = at - (self.text.rfind("\n", 0, at) + 1) + 1
        return TemplateError(f"template, line {line}, column {column}: {reason}")


def split(source: Source) -> Iterator[Text | Action]:
    """Yields the template's parts in order; comments are left out."""
    text, at, trim = source.text, 0, False
    while True:
        found = _ACTION.search(text, at)
        outside = text[at : found.start() if found else len(text)]
        if trim:
            outside = outside.lstrip(_WHITE)
        if found and found[1]:
            outside = outside.rstrip(_WHITE)
        if outside:
            yield Text(outside)
        if found is None:
            return
        action, at, trim = _action(source, found)
        if action is not None:
            yield action


def _action(source: Source, opening: re.Match[str]) -> tuple[Action | None, int, bool]:
    """Returns (action, or None for a comment; where it ends; whether it takes the white space behind it)."""
    text, at, spaced = source.text, opening.end(), False
    tokens: list[Token] = []
    comment = _COMMENT.match(text, at)
    if comment:
        at = comment.end()
    while True:
        found = _TOKEN.match(text, at)
        if found is None:
            if at == len(text):
                raise source.error(opening.start(), "{{ without }}")
            raise source.error(at, f"unexpected {text[at]!r}")
        kind, word = str(found.lastgroup), found[0]
        if kind == "close":
            if comment and not tokens:
                return None, found.end(), word.startswith("-")
            tokens.append(Token("end", "}}", at, spaced))
            return Action(tuple(tokens)), found.end(), word.startswith("-")
        if kind != "space":
            if comment:
                raise source.error(at, "a comment stands alone, as {{/* … */}}")
            tokens.append(Token(kind, _meaning(source, kind, word, at), at, spaced))
        spaced, at = kind == "space", found.end()


def _meaning(source: Source, kind: str, word: str, at: int) -> object:
    if kind == "string":
        return word[1:-1] if word[0] == "`" else _ESCAPE.sub(lambda m: _unescape(source, m, at), word[1:-1])
    if kind == "number":
        return _number(source, word, at)
    return word[1:] if kind == "field" else word


def _number(source: Source, word: str, at: int) -> object:
    if _INTEGER.fullmatch(word):
        number = int(word)
        if -(1 << 63) <= number < 1 << 63:
            return number
    elif _FLOAT.fullmatch(word):
        return float(word)
    raise source.error(at, f"{word[:40]} is no number that there is here")


def _unescape(source: Source, found: re.Match[str], at: int) -> str:
    simple, *numbers, other = found.groups()
    if simple:
        return _SIMPLE.get(simple, simple)
    code = -1 if other else int(next(number for number in numbers if number), 16)
    byte = numbers[0] is not None
    if not 0 <= code <= (0x7F if byte else 0x10FFFF) or 0xD800 <= code <= 0xDFFF:
        raise source.error(at, f"the string has no escape {found[0]}")
    return chr(code)
