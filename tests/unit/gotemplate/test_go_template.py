"""Templates: what Go's text/template makes of the same, what isn't supported, and that nothing gets out of bounds."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weavepy import limits
from weavepy.gotemplate import TemplateError, functions, parse, render

DATA = {
    "A": {
        "B": "x",
        "N": 3,
        "Z": 0,
        "F": 12.5,
        "T": True,
        "E": [],
        "L": [1, 2, 3],
        "O": {"k": "v", "j": [1, None]},
        "S": "<a&b>é",
    },
    "L": [{"N": "one", "v": 1}, {"N": "two", "v": 2}],
    "nil": None,
    "big": [1e6, 123456.0, 1e-5, 1.5e300, 0.1, 100000.5, 1e21, -0.0, 1234567.0, 0.0001, 5e-324],
    "Q": 'say "hi"\n',
}

# What Go 1.26 printed for these.
AS_GO = [
    ("{{.A.B}}", "x"),
    ("a{{/* c */}}b", "ab"),
    ("a {{- /* c */ -}} b", "ab"),
    ("a  {{- .A.B -}}  \n b", "axb"),
    ("{{.A.N}} {{.A.F}} {{.A.T}} {{.A.E}} {{.A.L}} {{.A.O}}", "3 12.5 true [] [1 2 3] map[j:[1 <nil>] k:v]"),
    ("{{.missing}} {{.nil}}", "<no value> <no value>"),
    ("{{.big}}", "[1e+06 123456 1e-05 1.5e+300 0.1 100000.5 1e+21 -0 1.234567e+06 0.0001 5e-324]"),
    ("{{range .L}}{{.N}}={{.v}} {{end}}", "one=1 two=2 "),
    ("{{range $i, $e := .L}}{{$i}}:{{$e.N}};{{end}}", "0:one;1:two;"),
    ("{{range $e := .A.L}}{{$e}},{{end}}", "1,2,3,"),
    ("{{range .A.E}}x{{else}}none{{end}}{{range .nil}}x{{end}}", "none"),
    ("{{range $k, $v := .A.O}}{{$k}}={{$v}} {{end}}", "j=[1 <nil>] k=v "),
    ("{{if .A.Z}}y{{else}}n{{end}}{{if .missing}}y{{else if .A.T}}z{{else}}n{{end}}", "nz"),
    ("{{if .A.E}}1{{else if .A.Z}}2{{else if .A.S}}3{{end}}", "3"),
    ("{{with .A}}{{.B}}{{end}}{{with .missing}}x{{else}}e{{end}}", "xe"),
    ("{{with $x := .A}}{{$x.N}}{{$.A.B}}{{end}}", "3x"),
    ("{{len .L}} {{len .A.S}} {{len .A}}", "2 7 9"),
    ('{{.A.S | json}}{{json nil}}{{json "\\u2028"}}', '"\\u003ca\\u0026b\\u003eé"null"\\u2028"'),
    (
        '{{index .L 0}} {{(index .L 1).N}} {{index .A "B"}} {{index .A "nope"}}',
        "map[N:one v:1] two x <no value>",
    ),
    ('{{index .A.O "j" 0}}', "1"),
    ('{{printf "%s-%d-%v-%q-%t" .A.B .A.N .A.F .A.B .A.T}}', 'x-3-12.5-"x"-true'),
    ('{{printf "%-5s|%5s|%3d|%-3d|" .A.B .A.B .A.N .A.N}}', "x    |    x|  3|3  |"),
    ('{{printf "%8.2f|%.1f%%" .A.F .A.F}}{{printf "%q" .Q}}', '   12.50|12.5%"say \\"hi\\"\\n"'),
    ('{{printf "%v %v" .nil .A.E}}{{.A.B | len | printf "%d"}}', "<nil> []1"),
    ('{{print 1 2 "a" 3 4}}{{print "a" "b"}}{{print}}{{print nil}}', "1 2a3 4ab<nil>"),
    ('{{print true 1}} {{print 1 true "x" true}}', "true 1 1 truextrue"),
    ('{{println 1 "a"}}', "1 a\n"),
    (
        "{{eq 1 1}} {{eq 1 2 1}} {{ne 1 2}} {{lt 1 2}} {{le 2 2}} {{gt 1 2}} {{ge 2 2}}",
        "true true true true true false true",
    ),
    ('{{eq "a" "a"}} {{lt "a" "b"}} {{eq .nil nil}} {{len .A.S | eq 7}}', "true true true true"),
    ('{{and 1 0 2}} {{or 0 "" 3}} {{not 0}} {{and .A.T .A.B}} {{or .A.Z .A.E}}', "0 3 true x []"),
    ("{{or .A.T .A.B.C}}", "true"),  # looks no further
    ("{{true | not}}{{if and .A.T (eq .A.N 3)}}yes{{end}}", "falseyes"),
    ('{{1}} {{-1}} {{1.5}} {{"s"}} {{`r\\n`}} {{"\\u00e9\\t"}}', "1 -1 1.5 s r\\n é\t"),
    ("{{$x := 1}}{{$x = 2}}{{$x}}{{if true}}{{$x = 5}}{{end}}{{$x}}", "25"),
    ("{{$x := 1}}{{if true}}{{$x := 5}}{{$x}}{{end}}{{$x}}{{if $q := 0}}{{else}}{{$q}}{{end}}", "510"),
    ("}}{{.A.B -}} \n{{ 3 -}}  y {{- 4}}", "}}x3y4"),
    ('{{"}}"}}{{`{{`}}', "}}{{"),
]


@pytest.mark.parametrize(("template", "text"), AS_GO)
def test_as_go_does(template: str, text: str) -> None:
    assert render(template, DATA) == text


@pytest.mark.parametrize(
    ("template", "line", "column", "words"),
    [
        ("{{", 1, 1, "{{ without }}"),
        ("a\nb {{.A", 2, 3, "{{ without }}"),
        ("{{}}", 1, 3, "a value is missing"),
        ("{{end}}", 1, 3, "{{end}} without"),
        ("{{else}}", 1, 3, "{{else}} without"),
        ("\n\n{{if .A}}", 3, 3, "{{if}} without {{end}}"),
        ("{{if}}x{{end}}", 1, 5, "a value is missing"),
        ("{{if 1}}{{else with 1}}{{end}}", 1, 11, "belongs to"),
        ("{{if 1}}{{else}}{{else}}{{end}}", 1, 19, "{{else}} without"),
        ("{{.A 1}}", 1, 6, "only a function takes arguments"),
        ("{{.A | .B}}", 1, 8, "only a function can stand behind |"),
        ("{{foo}}", 1, 3, "there is no function 'foo'; there are and, or,"),
        ("{{print len}}", 1, 9, "'len' is no value"),
        ("{{len}}", 1, 3, "len takes 1 to 1"),
        ("{{not 1 2}}", 1, 3, "not takes 1 to 1"),
        ("{{$y}}", 1, 3, "there is no variable $y"),
        ("{{$y = 1}}", 1, 3, "there is no variable $y to set"),
        ("{{$ := 1}}", 1, 3, "there is no variable $ to set"),
        ("{{if 1}}{{$q := 1}}{{else}}{{$q}}{{end}}", 1, 30, "there is no variable $q"),
        ("{{range $q := .L}}{{else}}{{$q}}{{end}}", 1, 29, "there is no variable $q"),
        ("{{with $x, $y := .A}}{{end}}", 1, 8, "only {{range}} sets two"),
        ("{{($x := 1)}}", 1, 4, "nothing in parentheses"),
        ("{{(1}}", 1, 3, "( without )"),
        ("{{1)}}", 1, 4, "unexpected )"),
        ('{{"a}}', 1, 3, "unexpected '\"'"),
        ('{{"\\q"}}', 1, 3, "no escape \\q"),
        ('{{"\\ud800"}}', 1, 3, "no escape"),
        ('{{"\\xff"}}', 1, 3, "no escape"),
        ("{{0x10}}", 1, 3, "0x10 is no number"),
        ("{{99999999999999999999}}", 1, 3, "is no number"),
        ("{{/* a}}", 1, 3, "unexpected '/'"),
        ("{{/* a */ 1}}", 1, 11, "a comment stands alone"),
        ('{{define "x"}}{{end}}', 1, 3, "define isn't supported"),
        ("{{range .L}}{{break}}{{end}}", 1, 15, "break isn't supported"),
        ("{{" + "(" * 40 + "1" + ")" * 40 + "}}", 1, 35, "nested deeper"),
        ("{{if 1}}" * 40 + "{{end}}" * 40, 1, 259, "nested deeper"),
        ("{{.A.Typo}}", 1, 5, "there is no field Typo; there are: B, N,"),
        ("{{.A.B.C}}", 1, 7, "a text has no field C"),
        ("{{.L.N}}", 1, 5, "a list has no field N"),
        ("{{.nil.x}}", 1, 7, "nothing has no field x"),
        ("{{range .A.N}}{{end}}", 1, 9, "range over a number"),
        ("{{len 3}}", 1, 3, "len of a number"),
        ("{{index .L 5}}", 1, 3, "there is no item 5 in a list of 2"),
        ("{{index .L -1}}", 1, 3, "there is no item -1"),
        ('{{index .L "a"}}', 1, 3, "has a number, not a text"),
        ("{{index .A 1}}", 1, 3, "has a name, not a number"),
        ("{{index .A.T 1}}", 1, 3, "index into a truth value"),
        ("{{eq .A.L .A.L}}", 1, 3, "a list can't be compared"),
        ("{{eq true 1}}", 1, 3, "a truth value can't be compared with a number"),
        ("{{lt true false}}", 1, 3, "no order"),
        ("{{printf 1}}", 1, 3, "takes a text first"),
        ('{{printf "%d" .A.B}}', 1, 3, "%d can't print a text"),
        ('{{printf "%d" true}}', 1, 3, "%d can't print a truth value"),
        ('{{printf "%s"}}', 1, 3, "nothing is left for '%s'"),
        ('{{printf "a" 1}}', 1, 3, "no place for '1'"),
        ('{{printf "%05d" 1}}', 1, 3, "printf has no '%0'"),
        ('{{printf "%"}}', 1, 3, "printf has no '%'"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(template: str, line: int, column: int, words: str) -> None:
    with pytest.raises(TemplateError, match=f"^template, line {line}, column {column}: .*{re.escape(words)}"):
        render(template, DATA)


def test_a_template_is_bounded_in_length() -> None:
    render("x" * limits.TEMPLATE_CHARS_MAX, None)
    with pytest.raises(TemplateError, match="longer than"):
        render("x" * (limits.TEMPLATE_CHARS_MAX + 1), None)


@pytest.mark.parametrize(
    "body",
    [
        "{{$x}}",
        "x" * 1000,
        "{{json $x}}",
        "{{len $x}}",
        "{{eq $x $x}}",
        "{{if lt $x $x}}{{end}}",
        '{{printf "%s%s" $x $x}}',
        "{{range $.L}}{{end}}",
    ],
)
def test_work_is_bounded(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TEMPLATE_WORK_MAX", 300_000)
    loops = "{{range .L}}" * 4
    template = f'{{{{$x := printf "%999s" "x"}}}}{loops.replace(".L", "$.L")}{body}{"{{end}}" * 4}'
    with pytest.raises(TemplateError, match="too much work"):
        render(template, {"L": list(range(30))})


@pytest.mark.parametrize("head", ["print", "println", 'printf "' + "%v" * 60 + '"'])
@pytest.mark.parametrize("value", [["x" * 99] * 1000, {"k": [{"n" * 90: 1}] * 1000}], ids=["list", "object"])
def test_memory_is_bounded_before_it_is_taken(
    head: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TEMPLATE_WORK_MAX", 300_000)
    shown: list[object] = []
    real = functions.show

    def show(value: object, depth: int = 0) -> str:
        shown.append(value)
        return real(value, depth)

    monkeypatch.setattr(functions, "show", show)
    assert render("{{print .}}", value)
    shown.clear()
    with pytest.raises(TemplateError, match="too much work"):
        render(f"{{{{{head}{' .' * 60}}}}}", value)
    assert not shown


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), 1 << 64) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("ABnk") | st.text(max_size=3), inner)
    ),
    max_leaves=20,
)
PIECES = """{{ }} {{- -}} .A .B .n . $ $x := = , | ( ) "%s%d" 1 -3 1.5 "k" `r` true nil if~ else~ end range~ with~
    {{end}} {{else}} len~ index~ json~ printf~ print~ eq~ lt~ and~ or~ not~ {{/*c*/}} é \\ {{range~.A}}
    {{range~$k,$x:=.}} {{$x:=.A}} {{if~.A}} {{with~.B}} {{.}} {{json~.}} ~ ~ ~"""  # a ~ is a space
PIECE = st.sampled_from([piece.replace("~", " ") for piece in PIECES.split()])
TEMPLATES = st.lists(PIECE | st.text(max_size=3), max_size=30).map("".join)


@settings(max_examples=600, deadline=None)
@given(TEMPLATES, VALUES)
def test_nothing_but_its_own_error_gets_out(template: str, value: Any) -> None:
    try:
        answer = render(template, value)
    except TemplateError as error:
        answer = error
    assert isinstance(answer, str) or str(answer).startswith("template, line ")


@settings(max_examples=300, deadline=None)
@given(TEMPLATES)
def test_what_parses_once_parses_with_any_value(template: str) -> None:
    """Parsing needs no value, so that a command can refuse a template before it asks a router."""
    try:
        parse(template)
    except TemplateError as error:
        with pytest.raises(TemplateError, match=f"^{re.escape(str(error))}$"):
            render(template, None)


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_any_value_can_be_shown_or_is_refused(value: Any) -> None:
    for template in ("{{.}}", "{{json .}}", "{{print .}}", "{{range .}}{{.}}{{end}}", '{{printf "%v" .}}'):
        try:
            render(template, value)
        except TemplateError:
            continue
