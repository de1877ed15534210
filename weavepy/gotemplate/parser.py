"""Makes a tree of a template.

Rules of this file. Depth is bounded, so that whoever walks the tree may do so by recursion. Functions and variables are
known here: what isn't there is refused before anything is evaluated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from weavepy import limits
from weavepy.gotemplate.lexer import Action, Source, TemplateError, Text, Token, split

__all__ = ["TemplateError", "parse"]

# How many arguments each function takes, at least and at most.
FUNCTIONS = {
    "and": (1, 64),
    "or": (1, 64),
    "not": (1, 1),
    "eq": (2, 64),
    "ne": (2, 2),
    "lt": (2, 2),
    "le": (2, 2),
    "gt": (2, 2),
    "ge": (2, 2),
    "index": (1, 64),
    "json": (1, 1),
    "len": (1, 1),
    "print": (0, 64),
    "printf": (1, 64),
    "println": (0, 64),
}
_CONSTANTS = {"true": True, "false": False, "nil": None}
_BLOCKS = ("if", "range", "with")
_UNSUPPORTED = ("block", "break", "continue", "define", "template")


@dataclass(frozen=True, slots=True)
class Constant:
    value: object
    at: int


@dataclass(frozen=True, slots=True)
class Variable:
    """`$x`, `$`, and "." for what is at hand."""

    name: str
    at: int


@dataclass(frozen=True, slots=True)
class Field:
    of: Operand
    name: str
    at: int


@dataclass(frozen=True, slots=True)
class Call:
    function: str
    arguments: tuple[Operand, ...]
    at: int


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Commands, each given the last one's value as its last argument. `declares`: variables that are set with it."""

    commands: tuple[Operand, ...]
    declares: tuple[str, ...]
    assigns: bool  # to variables that are there
    at: int


@dataclass(frozen=True, slots=True)
class Block:
    """if, range or with."""

    kind: str
    pipeline: Pipeline
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]


Operand: TypeAlias = Constant | Variable | Field | Call | Pipeline
Node: TypeAlias = Text | Pipeline | Block


@dataclass(frozen=True, slots=True)
class Template:
    source: Source
    nodes: tuple[Node, ...]


def parse(text: str) -> Template:
    """Returns the tree of a template; TemplateError says where it is none."""
    source = Source(text)
    return Template(source, _Parser(source).parse())


@dataclass(slots=True)
class _Open:
    """A block that hasn't ended."""

    kind: str
    at: int
    pipeline: Pipeline | None
    variables: int  # that were there before it,
    inner: int  # and with those that it sets
    chained: bool = False  # an `else if`, which ends with the block that it is in
    body: list[Node] = field(default_factory=list)
    otherwise: list[Node] | None = None

    def add(self, node: Node) -> None:
        (self.body if self.otherwise is None else self.otherwise).append(node)


class _Parser:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._open = [_Open("", 0, None, 1, 1)]
        self._variables = ["$"]
        self._tokens: tuple[Token, ...] = ()
        self._next = 0
        self._depth = 0

    def parse(self) -> tuple[Node, ...]:
        for part in split(self._source):
            if isinstance(part, Text):
                self._open[-1].add(part)
            else:
                self._action(part)
        last = self._open[-1]
        if len(self._open) > 1:
            raise self._source.error(last.at, f"{{{{{last.kind}}}}} without {{{{end}}}}")
        return tuple(last.body)

    # ---- actions

    def _action(self, action: Action) -> None:
        self._tokens, self._next = action.tokens, 0
        token = self._peek()
        word = token.value if token.kind == "word" else None
        if word in _BLOCKS:
            self._next += 1
            self._begin(str(word), token.at)
        elif word == "else":
            self._next += 1
            self._else(token)
        elif word == "end":
            self._next += 1
            self._end(token)
        elif word in _UNSUPPORTED:
            raise self._source.error(token.at, f"{word} isn't supported here")
        else:
            self._open[-1].add(self._pipeline(declaring=1))
        self._expect_end()

    def _begin(self, kind: str, at: int, *, chained: bool = False) -> None:
        if len(self._open) > limits.TEMPLATE_DEPTH_MAX:
            raise self._source.error(at, f"nested deeper than {limits.TEMPLATE_DEPTH_MAX}")
        before = len(self._variables)
        pipeline = self._pipeline(declaring=2 if kind == "range" else 1)
        self._open.append(_Open(kind, at, pipeline, before, len(self._variables), chained))

    def _else(self, token: Token) -> None:
        last = self._open[-1]
        if len(self._open) == 1 or last.otherwise is not None:
            raise self._source.error(token.at, "{{else}} without {{if}}, {{range}} or {{with}}")
        last.otherwise = []
        # Those of `range` have no value when there was nothing to range over.
        del self._variables[last.variables if last.kind == "range" else last.inner :]
        if self._peek().kind == "word" and self._peek().value in ("if", "with"):
            kind = str(self._take().value)
            if kind != last.kind:
                raise self._source.error(token.at, f"{{{{else {kind}}}}} belongs to {{{{{kind}}}}}")
            self._begin(kind, token.at, chained=True)

    def _end(self, token: Token) -> None:
        if len(self._open) == 1:
            raise self._source.error(token.at, "{{end}} without {{if}}, {{range}} or {{with}}")
        chained = True
        while chained:
            closed = self._open.pop()
            del self._variables[closed.variables :]
            assert closed.pipeline is not None
            block = Block(closed.kind, closed.pipeline, tuple(closed.body), tuple(closed.otherwise or ()))
            self._open[-1].add(block)
            chained = closed.chained

    # ---- pipelines

    def _pipeline(self, *, declaring: int) -> Pipeline:
        at = self._peek().at
        declares, assigns = self._declaration(declaring)
        commands = [self._command(None)]
        while self._is_mark("|"):
            self._next += 1
            commands.append(self._command(commands[-1]))
        if not assigns:
            self._variables += declares
        return Pipeline(tuple(commands), declares, assigns, at)

    def _declaration(self, most: int) -> tuple[tuple[str, ...], bool]:
        """Takes `$x :=`, `$x =` or `$i, $e :=` if that comes next."""
        start, names = self._next, list[Token]()
        while self._peek().kind == "variable" and len(names) < 2:
            names.append(self._take())
            if self._is_mark(":=") or self._is_mark("="):
                assigns = self._take().value == "="
                for token in names:
                    if token.value == "$" or (assigns and token.value not in self._variables):
                        raise self._source.error(token.at, f"there is no variable {token.value} to set")
                if len(names) > most:
                    where = (
                        "nothing in parentheses sets variables"
                        if not most
                        else "only {{range}} sets two variables"
                    )
                    raise self._source.error(names[0].at, where)
                return tuple(str(token.value) for token in names), assigns
            if not self._is_mark(","):
                break
            self._next += 1
        self._next = start
        return (), False

    def _command(self, piped: Operand | None) -> Operand:
        token = self._peek()
        if token.kind == "word" and token.value not in _CONSTANTS:
            self._next += 1
            return self._call(token, piped)
        if piped is not None:
            raise self._source.error(token.at, "only a function can stand behind |")
        operand = self._operand()
        if not self._command_ends():
            raise self._source.error(self._peek().at, "only a function takes arguments")
        return operand

    def _call(self, token: Token, piped: Operand | None) -> Operand:
        name = str(token.value)
        if name not in FUNCTIONS:
            raise self._source.error(
                token.at, f"there is no function {name!r}; there are {', '.join(FUNCTIONS)}"
            )
        arguments = []
        while not self._command_ends():
            arguments.append(self._operand())
        least, most = FUNCTIONS[name]
        if not least <= len(arguments) + (piped is not None) <= most:
            raise self._source.error(token.at, f"{name} takes {least} to {most} arguments")
        return Call(name, tuple(arguments), token.at)

    def _operand(self) -> Operand:
        token = self._take()
        operand: Operand
        if token.kind in ("string", "number"):
            return Constant(token.value, token.at)
        if token.kind == "word":
            if token.value in _CONSTANTS:
                return Constant(_CONSTANTS[str(token.value)], token.at)
            operand = self._bare_call(token)
        elif token.kind == "field":
            operand = Field(Variable(".", token.at), str(token.value), token.at)
        elif token.kind == "variable":
            if token.value not in self._variables:
                raise self._source.error(token.at, f"there is no variable {token.value}")
            operand = Variable(str(token.value), token.at)
        elif token.kind == "mark" and token.value == ".":
            return Variable(".", token.at)
        elif token.kind == "mark" and token.value == "(":
            operand = self._parenthesis(token)
        else:
            raise self._source.error(token.at, f"a value is missing before {token.value}")
        depth = 0
        while self._peek().kind == "field" and not self._peek().spaced:
            depth += 1
            if depth > limits.TEMPLATE_DEPTH_MAX:
                raise self._source.error(token.at, f"nested deeper than {limits.TEMPLATE_DEPTH_MAX}")
            name = self._take()
            operand = Field(operand, str(name.value), name.at)
        return operand

    def _bare_call(self, token: Token) -> Operand:
        """A function as an argument, without arguments of its own: those need parentheses."""
        name = str(token.value)
        if name not in FUNCTIONS or FUNCTIONS[name][0] > 0:
            raise self._source.error(
                token.at, f"{name!r} is no value; a function with arguments needs parentheses"
            )
        return Call(name, (), token.at)

    def _parenthesis(self, opening: Token) -> Operand:
        self._depth += 1
        if self._depth > limits.TEMPLATE_DEPTH_MAX:
            raise self._source.error(opening.at, f"nested deeper than {limits.TEMPLATE_DEPTH_MAX}")
        inner = self._pipeline(declaring=0)
        if not self._is_mark(")"):
            raise self._source.error(opening.at, "( without )")
        self._next += 1
        self._depth -= 1
        return inner

    # ---- tokens

    def _peek(self) -> Token:
        return self._tokens[min(self._next, len(self._tokens) - 1)]

    def _take(self) -> Token:
        token = self._peek()
        self._next += 1
        return token

    def _is_mark(self, mark: str) -> bool:
        return self._peek().kind == "mark" and self._peek().value == mark

    def _command_ends(self) -> bool:
        return self._peek().kind == "end" or self._is_mark("|") or self._is_mark(")")

    def _expect_end(self) -> None:
        if self._peek().kind != "end":
            raise self._source.error(self._peek().at, f"unexpected {self._peek().value}")
