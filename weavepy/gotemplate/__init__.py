"""A subset of Go's text/template, as `weave report -f` has it: a text with actions, and JSON values to fill it with.

Rules of this package. It is total: whatever the template and the values, the answer is a text or a TemplateError that
says where, after a bounded amount of work. What isn't supported is refused, never passed over.

    {{.A.B}}  {{$x := .A}}  {{if .A}}…{{else if .B}}…{{else}}…{{end}}  {{with .A}}…{{end}}
    {{range .A}}…{{else}}…{{end}}  {{range $i, $e := .A}}…{{end}}  {{len .A | printf "%3d"}}  {{/* … */}}  {{- … -}}
    and or not eq ne lt le gt ge index json len print printf println
"""

from weavepy.gotemplate.evaluate import evaluate
from weavepy.gotemplate.parser import TemplateError, parse

__all__ = ["TemplateError", "parse", "render"]


def render(template: str, value: object) -> str:
    """Returns `template` filled with `value`, which is made of what JSON has; TemplateError if that can't be done."""
    return evaluate(parse(template), value)
