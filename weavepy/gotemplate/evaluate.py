"""Fills a parsed template with values.

Rules of this file. Work is counted before or right after it is done, in characters handled and values looked at, and
ends with an error at limits.TEMPLATE_WORK_MAX. A name that begins with a capital is one that objects of its kind always
have, like a field of a Go struct, so it is a mistake to ask for one that isn't there; any other is a key that may be
missing.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

from weavepy import limits
from weavepy.gotemplate import functions as f
from weavepy.gotemplate.lexer import Text
from weavepy.gotemplate.parser import (
    Block,
    Call,
    Constant,
    Field,
    Node,
    Operand,
    Pipeline,
    Template,
    Variable,
)

_STEP = 64  # what a step costs beside a character
_NO_VALUE = "<no value>"
_T = TypeVar("_T")


def evaluate(template: Template, value: object) -> str:
    """Returns the text that `template` makes of `value`; TemplateError if that can't be done."""
    return _Evaluation(template, value).run()


class _Evaluation:
    def __init__(self, template: Template, value: object) -> None:
        self._template = template
        self._left = limits.TEMPLATE_WORK_MAX
        self._variables: list[tuple[str, object]] = [("$", value)]
        self._out: list[str] = []

    def run(self) -> str:
        self._nodes(self._template.nodes, self._variables[0][1])
        return "".join(self._out)

    def _nodes(self, nodes: tuple[Node, ...], dot: object) -> None:
        before = len(self._variables)
        for node in nodes:
            match node:
                case Text(text):
                    self._write(text, 0)
                case Pipeline():
                    value = self._pipeline(node, dot)
                    if not node.declares:
                        self._write(self._show(value, node.at), node.at)
                case Block():
                    self._block(node, dot)
        del self._variables[before:]

    def _block(self, block: Block, dot: object) -> None:
        before = len(self._variables)
        value = self._pipeline(block.pipeline, dot, hold=block.kind == "range")
        if block.kind == "range":
            self._range(block, value, dot)
        elif f.is_true(value):
            self._nodes(block.body, value if block.kind == "with" else dot)
        else:
            self._nodes(block.otherwise, dot)
        del self._variables[before:]

    def _range(self, block: Block, value: object, dot: object) -> None:
        pairs = self._pairs(value, block.pipeline.at)
        if not pairs:
            self._nodes(block.otherwise, dot)
        names, assigns = block.pipeline.declares, block.pipeline.assigns
        for key, item in pairs:
            before = len(self._variables)
            for name, given in zip(names, (key, item) if len(names) == 2 else (item,), strict=False):
                self._set(name, given, assigns=assigns)
            self._spend(_STEP, block.pipeline.at)
            self._nodes(block.body, item)
            del self._variables[before:]

    def _pairs(self, value: object, at: int) -> list[tuple[object, object]]:
        if value is None:
            return []
        if isinstance(value, list | tuple):
            self._spend(len(value), at)
            return list(enumerate(value))
        if isinstance(value, dict):
            self._spend(len(value) * _STEP, at)
            return [(key, value[key]) for key in sorted(value, key=str)]
        raise self._template.source.error(at, f"range over {f.kind_of(value)}")

    # ---- values

    def _pipeline(self, pipeline: Pipeline, dot: object, *, hold: bool = False) -> object:
        """Returns a pipeline's value and sets its variables, unless they are to be held for `range`."""
        value: object = None
        for i, command in enumerate(pipeline.commands):
            match command:
                case Call() if i:
                    value = self._call(command, dot, (value,))
                case _:
                    value = self._value(command, dot)
        if not hold:
            for name in pipeline.declares:
                self._set(name, value, assigns=pipeline.assigns)
        return value

    def _set(self, name: str, value: object, *, assigns: bool) -> None:
        if assigns:
            i = max(i for i, (known, _) in enumerate(self._variables) if known == name)
            self._variables[i] = (name, value)
        else:
            self._variables.append((name, value))

    def _value(self, operand: Operand, dot: object) -> object:
        match operand:
            case Constant(value):
                return value
            case Variable(name, at):
                self._spend(_STEP, at)
                return (
                    dot if name == "." else next(v for known, v in reversed(self._variables) if known == name)
                )
            case Field(of, name, at):
                return self._field(self._value(of, dot), name, at)
            case Call():
                return self._call(operand, dot, ())
            case Pipeline():
                return self._pipeline(operand, dot)

    def _field(self, value: object, name: str, at: int) -> object:
        self._spend(_STEP, at)
        if not isinstance(value, dict):
            raise self._template.source.error(at, f"{f.kind_of(value)} has no field {name}")
        if name not in value and name[:1].isupper():
            there = ", ".join(str(key) for key in list(value)[:40]) or "none"
            raise self._template.source.error(at, f"there is no field {name}; there are: {there}")
        return value.get(name)

    def _call(self, call: Call, dot: object, piped: tuple[object, ...]) -> object:
        self._spend(_STEP * (1 + len(call.arguments)), call.at)
        if call.function in ("and", "or"):
            return self._choose(call, dot, piped)
        values = [*(self._value(argument, dot) for argument in call.arguments), *piped]
        self._spend(sum(len(value) for value in values if isinstance(value, str)), call.at)
        if call.function in ("print", "printf", "println"):  # which make one text of many
            self._expect(values, call.at)
        result = self._may_fail(call.at, lambda: self._apply(call.function, values))
        if isinstance(result, str):
            self._spend(len(result), call.at)
        return result

    def _choose(self, call: Call, dot: object, piped: tuple[object, ...]) -> object:
        """`and` and `or` look no further than they must."""
        value: object = None
        for value in self._each(call, dot, piped):
            if f.is_true(value) == (call.function == "or"):
                break
        return value

    def _each(self, call: Call, dot: object, piped: tuple[object, ...]) -> Iterator[object]:
        for argument in call.arguments:
            yield self._value(argument, dot)
        yield from piped

    def _apply(self, function: str, values: list[object]) -> object:
        first, *others = values or [""]
        match function:
            case "not":
                return not f.is_true(first)
            case "eq":
                return any(f.equal(first, other) for other in others)
            case "ne":
                return not f.equal(first, others[0])
            case "lt":
                return f.less(first, others[0])
            case "ge":
                return not f.less(first, others[0])
            case "gt":
                return f.less(others[0], first)
            case "le":
                return not f.less(others[0], first)
            case "index":
                for key in others:
                    first = f.item(first, key)
                return first
            case "json":
                return f.to_json(first)
            case "len":
                return f.length(first)
            case "printf":
                return f.printf(first, others)
            case "println":
                return " ".join(f.show(value) for value in values) + "\n"
        return f.join(values)  # print

    # ---- bounds

    def _may_fail(self, at: int, action: Callable[[], _T]) -> _T:
        """Says where it was if an action can't be done."""
        try:
            return action()
        except ValueError as error:  # of `functions`, and of Python's for numbers and texts beyond its bounds
            raise self._template.source.error(at, str(error)) from None

    def _show(self, value: object, at: int) -> str:
        return _NO_VALUE if value is None else self._may_fail(at, lambda: f.show(value))

    def _write(self, text: str, at: int) -> None:
        self._spend(len(text), at)
        self._out.append(text)

    def _expect(self, values: list[object], at: int) -> None:
        """Refuses beforehand what takes more memory than there is work left."""
        left = self._left
        for value in values:
            left = f.less_its_size(left, value)
            if left < 0:
                self._spend(self._left + 1, at)

    def _spend(self, work: int, at: int) -> None:
        self._left -= work
        if self._left < 0:
            raise self._template.source.error(at, "this is too much work; ask for less")
