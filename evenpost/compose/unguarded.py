"""Names in a template that nobody gives a value: found before a list is sent, with what was perhaps meant."""

from difflib import get_close_matches

from jinja2 import nodes
from jinja2.meta import find_undeclared_variables

from evenpost.compose.errors import TemplateError
from evenpost.compose.sandbox import Sandbox
from evenpost.compose.template import ALWAYS


def unguarded(name: str, source: str, sandbox: Sandbox, known: frozenset[str]) -> list[TemplateError]:
    """Names in a part that no field has and that nothing in it provides for (`default`, `is defined`)."""
    tree = sandbox.parse(source)
    guarded: set[str] = set()
    for test in tree.find_all((nodes.Filter, nodes.Test)):
        if test.name in ("default", "d", "defined", "undefined") and isinstance(test.node, nodes.Name):
            guarded.add(test.node.name)
    wanted = find_undeclared_variables(tree) - set(sandbox.globals) - known - guarded - ALWAYS - {"self"}
    lines: dict[str, int] = {}
    for node in tree.find_all(nodes.Name):
        if node.ctx == "load" and node.name in wanted:
            lines.setdefault(node.name, node.lineno)
    errors = []
    for unknown, line in sorted(lines.items(), key=lambda item: item[1]):
        close = get_close_matches(unknown, sorted(known | ALWAYS), 1)
        help_ = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(sorted(known | ALWAYS))}"
        errors.append(TemplateError(name, line, f"there is no field {unknown!r}; {help_}"))
    return errors
