"""One part of a template, compiled: what it uses, what it makes of a recipient's values.

A part that goes out as quoted-printable is compiled in its encoded form: in the syntax tree, constant text is
replaced by its encoding and each expression between it is passed through the encoder. What the template
then renders *is* the body, and only values are encoded for each recipient. Where a template captures or
repeats its own output (`call`, `filter`, `self.block()`, recursive loops, `autoescape`), that would encode
twice; such a part is rendered first and encoded whole.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, NoReturn

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError, TemplateSyntaxError, UndefinedError
from jinja2.meta import find_undeclared_variables
from markupsafe import escape

from evenpost.compose import limits
from evenpost.compose.errors import ComposeError, TemplateError
from evenpost.compose.sandbox import BOUNDED, COUNTED, ENCODED, KEPT, WEIGHED, Sandbox
from evenpost.compose.transfer import (
    base64_text,
    encode_chunk,
    prefers_base64,
    quoted_printable,
    quoted_printable_escaped,
)

ALWAYS = frozenset({"email", "campaign"})
"""Names that every template has: the recipient's address, the campaign's id."""

_TWICE = (nodes.CallBlock, nodes.FilterBlock, nodes.EvalContextModifier, nodes.Block)
"""What outputs its own output, or changes how output is escaped."""
_ELSEWHERE = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
_KEEPS = (nodes.Assign, nodes.AssignBlock, nodes.Macro, nodes.Block)
"""What leaves names behind in a context, or renders from it a second time."""
_UNDEFINED = re.compile(r"'(\w+)' is undefined").fullmatch
_TAG_BEGINS = re.compile(r"\{[{%]").search
_MAY_MEAN = re.compile(r"[{\r]").search
"""Without a brace it is text, with line ends that Jinja2 leaves alone where they are plain: most senders and
many subjects are, and to parse one takes longer than the rest of it."""
_GROWS = (nodes.For, nodes.Call, nodes.Filter, nodes.BinExpr, nodes.Concat)
"""What can make more of a template than is in it."""
_CAPTURES = (nodes.Macro, nodes.AssignBlock, nodes.CallBlock, nodes.FilterBlock)
"""What keeps its output in memory until it is complete."""
_PLAIN_NODES = (nodes.Output, nodes.TemplateData, nodes.Name)


class Part(ABC):
    """A compiled part. `render` and `body` may be called again and again, by one thread at a time."""

    plain = False
    """Nothing but text and `{{ name }}`: it can only fail on a value that is missing or can't be encoded."""

    def __init__(self, name: str, uses: frozenset[str], encoding: str, *, encoded: bool) -> None:
        self.name = name
        self.uses = uses
        self.encoding = encoding
        """The content transfer encoding of `body`."""
        self.constant: str | None = None
        """What it renders to, if that is the same for everybody; for a text part, the encoded body."""
        self.encoded = encoded
        """Whether `render` gives the encoded form already."""

    @abstractmethod
    def render(self, scope: Mapping[str, Any]) -> str:
        """What the part makes of these values. Raises ComposeError."""

    def body(self, scope: Mapping[str, Any]) -> str:
        """The part in its content transfer encoding. Raises ComposeError."""
        text = self.render(scope)
        if self.encoded:
            return text
        try:
            return base64_text(text) if self.encoding == "base64" else encode_chunk(text)
        except UnicodeEncodeError as error:
            self._fail(error, None)

    def _fail(self, error: Exception, line: int | None) -> NoReturn:
        missing: str | None = None
        match error:
            case UndefinedError() if (found := _UNDEFINED(str(error))) is not None:
                missing = found[1]
                message = f"the field {missing!r} has no value"
            case UnicodeEncodeError():
                message = "half a surrogate pair is no character"
            case RecursionError():
                message = "it nests too deeply"
            case OutputError() | UndefinedError() | SecurityError():
                message = str(error)
            case _:
                message = f"{type(error).__name__}: {error}"
        raise ComposeError(self.name, message, line, missing) from error


class PlainPart(Part):
    """Text with `{{ name }}`s in it, which is most of what is sent: twice as fast without Jinja2."""

    plain = True

    def __init__(self, tree: nodes.Template, *, html: bool, encoded: bool, **kwargs: Any) -> None:
        super().__init__(encoded=encoded, **kwargs)
        self.html = html
        self._texts: list[str] = []
        self._slots: list[tuple[int, str, int]] = []
        for node in tree.iter_child_nodes():
            for child in node.iter_child_nodes():
                if isinstance(child, nodes.Name):
                    self._slots.append((len(self._texts), child.name, child.lineno))
                    self._texts.append("")
                elif isinstance(child, nodes.TemplateData):
                    self._texts.append(encode_chunk(child.data) if encoded else child.data)
        values: dict[tuple[bool, bool], Callable[[Any], str]] = {
            (True, True): quoted_printable_escaped, (True, False): quoted_printable,
            (False, True): _escaped, (False, False): str,
        }  # fmt: skip
        self._value = values[encoded, html]

    def pieces(self) -> list[tuple[str, str | None]]:
        """Constant texts, in the encoding of `render`, and the names whose values stand between them."""
        pieces: list[tuple[str, str | None]] = [(text, None) for text in self._texts]
        for number, name, _ in self._slots:
            pieces[number] = ("", name)
        return pieces

    def render(self, scope: Mapping[str, Any]) -> str:
        texts = self._texts.copy()
        for number, name, line in self._slots:
            value = scope.get(name)
            if value is None:
                raise ComposeError(self.name, f"the field {name!r} has no value", line, name)
            try:
                texts[number] = self._value(value)
            except (UnicodeEncodeError, RecursionError) as error:
                self._fail(error, line)
        return "".join(texts)


class JinjaPart(Part):
    """Everything else."""

    def __init__(self, template: Template, *, bounded: bool, keeps: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._template = template
        self._bounded = bounded
        self._keeps = keeps
        # A context costs as much as a small part: it is kept, and only what it looks names up in changes.
        self._context = template.new_context({}, shared=True)

    def render(self, scope: Mapping[str, Any]) -> str:
        context = self._context
        if self._keeps:
            context = self._template.new_context(dict(scope), shared=True)
        else:
            context.parent = scope  # type: ignore[assignment]  # a dict, which nothing writes to
        try:
            pieces = self._template.root_render_func(context)
            return "".join(_at_most(limits.OUTPUT_CHARS_MAX, pieces) if self._bounded else pieces)
        except Exception as error:  # noqa: BLE001  # templates run filters and operators on anybody's data
            self._fail(error, _line_of(error.__traceback__, self._template))


class OutputError(Exception):
    """A part grows too large."""


def compile_part(
    name: str, source: str, sandbox: Sandbox, *, body: bool = False, report_lines: bool = True
) -> Part:
    """Compiles a part; `body` for a text part, whose encoding is chosen here. Raises TemplateError."""
    allowed = limits.SOURCE_CHARS_MAX if body else limits.HEADER_SOURCE_CHARS_MAX
    if len(source) > allowed:
        raise TemplateError(name, None, f"{len(source):,} characters; at most {allowed:,} are accepted")
    if _tag_chars(source) > limits.TAG_CHARS_MAX:
        most = f"at most {limits.TAG_CHARS_MAX:,} characters may be in tags"
        raise TemplateError(name, None, f"too much of it is in {{{{ }}}} and {{% %}}: {most}")
    try:
        source.encode()
        if _MAY_MEAN(source):
            part = _compile_tree(name, sandbox.parse(source), sandbox, body)
        else:
            part = _constant_part(name, source, sandbox, body)
        if part.plain and not part.uses:
            part.constant = part.body({}) if body else part.render({})
    except TemplateSyntaxError as error:
        raise TemplateError(name, error.lineno if report_lines else None, str(error.message)) from error
    except UnicodeEncodeError:
        raise TemplateError(name, None, "half a surrogate pair is no character") from None
    except (RecursionError, SyntaxError, MemoryError, OverflowError, ValueError) as error:
        # Python's own compiler and stack have bounds that Jinja2 passes on as they come.
        raise TemplateError(name, None, f"it can't be compiled: {error}") from error
    return part


def _tag_chars(source: str) -> int:
    chars = end = 0
    while (found := _TAG_BEGINS(source, end)) is not None:
        start = found.start()
        end = source.find("}}" if source[start + 1] == "{" else "%}", start)
        if end < 0:
            return chars + len(source) - start
        chars += end + 2 - start
    return chars


def _constant_part(name: str, source: str, sandbox: Sandbox, body: bool) -> Part:
    """What Jinja2 would make of a text that has nothing for it."""
    tree = nodes.Template([nodes.Output([nodes.TemplateData(source)])])
    encoding = "base64" if body and prefers_base64(source) else "quoted-printable"
    encoded = body and encoding == "quoted-printable"
    html = bool(sandbox.autoescape)
    return PlainPart(tree, html=html, encoded=encoded, name=name, uses=frozenset(), encoding=encoding)


def _compile_tree(name: str, tree: nodes.Template, sandbox: Sandbox, body: bool) -> Part:
    if any(len(given.items) > limits.KEYS_MAX for given in tree.find_all(nodes.Dict)):
        raise TemplateSyntaxError(f"a dictionary of more than {limits.KEYS_MAX:,} keys", 1)
    # find_undeclared_variables() asks for filters and tests that there are, too.
    names = frozenset(find_undeclared_variables(tree))
    if (found := _find(tree, *_ELSEWHERE)) is not None:
        raise TemplateSyntaxError(
            "include, import and extends have no files here: give the part in one piece", found.lineno
        )
    static = "".join([data.data for data in tree.find_all(nodes.TemplateData)])
    encoding = "base64" if body and prefers_base64(static) else "quoted-printable"
    encoded = body and encoding == "quoted-printable"
    uses = names - set(sandbox.globals) - {"self"}
    about = {"name": name, "uses": uses, "encoding": encoding}
    if uses == names and all(isinstance(node, _PLAIN_NODES) for node in tree.find_all(nodes.Node)):
        return PlainPart(tree, html=bool(sandbox.autoescape), encoded=encoded, **about)

    keeps = _find(tree, *_KEEPS) is not None
    bounded = _find(tree, *_GROWS) is not None
    if (
        "self" in names
        or any(loop.recursive for loop in tree.find_all(nodes.For))
        or _find(tree, *_TWICE) is not None
    ):
        encoded = False
    if encoded:
        _encode(tree)
    _bound(tree)
    code = sandbox.compile(tree, name=None, filename=f"<{name}>")
    template = Template.from_code(sandbox, code, sandbox.globals)
    return JinjaPart(template, bounded=bounded, keeps=keeps, encoded=encoded, **about)


def _escaped(value: Any) -> str:
    return str(escape(value))


def _find(tree: nodes.Node, *types: type[nodes.Node]) -> nodes.Node | None:
    return next(tree.find_all(types), None)


def _filtered(node: nodes.Node | None, filter_: str, near: nodes.Node, *args: nodes.Expr) -> nodes.Filter:
    wrapped = nodes.Filter(node, filter_, list(args), [], None, None, lineno=near.lineno)
    return wrapped.set_environment(near.environment)  # type: ignore[arg-type, return-value]  # set by the parser


def _encode(node: nodes.Node) -> None:
    """Encodes what a template outputs. What macros and `set` blocks capture is output elsewhere."""
    if isinstance(node, (nodes.Macro, nodes.AssignBlock)):
        return
    if isinstance(node, nodes.Output):
        for number, child in enumerate(node.nodes):
            if isinstance(child, nodes.TemplateData):
                child.data = encode_chunk(child.data)
            else:
                node.nodes[number] = _filtered(child, ENCODED, child)
        return
    for inner in node.iter_child_nodes():
        if isinstance(inner, nodes.Stmt):
            _encode(inner)


def _bound(tree: nodes.Template) -> None:
    """Puts the sandbox's bounds where its environment can't see: loops, `~`, slices, comparisons, what is
    captured, what a namespace keeps."""
    for loop in tree.find_all(nodes.For):
        constant = sum(len(data.data) for data in loop.find_all(nodes.TemplateData))
        steps = nodes.Const(1 + constant // 256, lineno=loop.lineno)
        loop.iter = _filtered(loop.iter, COUNTED, loop, steps)
    for capture in tree.find_all(_CAPTURES):
        for output in capture.find_all(nodes.Output):
            output.nodes[:] = [
                n if isinstance(n, nodes.TemplateData) else _filtered(n, WEIGHED, n) for n in output.nodes
            ]
        if isinstance(capture, nodes.AssignBlock):
            capture.filter = _filtered(capture.filter, BOUNDED, capture)
    for assign in tree.find_all(nodes.Assign):
        if isinstance(assign.target, nodes.NSRef):
            assign.node = _filtered(assign.node, KEPT, assign)
    compared: list[Any] = [*tree.find_all(nodes.Compare), *tree.find_all(nodes.Operand)]
    for each in compared:
        if not isinstance(each.expr, nodes.Const):
            each.expr = _filtered(each.expr, WEIGHED, each)
    for node in list(tree.find_all(nodes.Node)):
        for name, value in list(node.iter_fields()):
            if _copies(value):
                setattr(node, name, _filtered(value, BOUNDED, value))
            elif isinstance(value, list):
                value[:] = [_filtered(v, BOUNDED, v) if _copies(v) else v for v in value]
    for concat in tree.find_all(nodes.Concat):
        concat.nodes = [n if isinstance(n, nodes.Const) else _filtered(n, WEIGHED, n) for n in concat.nodes]


def _copies(node: Any) -> bool:
    return isinstance(node, nodes.Concat) or (
        isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
    )


def _at_most(chars_max: int, pieces: Iterator[str]) -> Iterator[str]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > chars_max:
            raise OutputError(f"it grows beyond {chars_max:,} characters")
        yield piece


def _line_of(trace: TracebackType | None, template: Template) -> int | None:
    line: int | None = None
    while trace is not None:
        if trace.tb_frame.f_globals.get("__jinja_template__") is not None or (
            trace.tb_frame.f_code.co_filename == template.filename
        ):
            line = template.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return line
