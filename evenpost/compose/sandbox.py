"""Jinja2's immutable sandbox, with the bounds that it leaves to its user.

A template comes from a client and runs in every worker. Jinja2's sandbox keeps it away from the process;
what it leaves open is time and memory: `{{ 'a' * 10**9 }}`, loops in loops, macros that call themselves
twice. So whatever works is counted (evenpost.compose.budget), and whatever multiplies text is checked before
it runs.

Nothing random is in here either: a message that is tried again has to be the same message.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jinja2 import StrictUndefined, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from evenpost.compose import limits
from evenpost.compose.budget import Budget, allow, allow_bit_length, allow_bits, checked_given
from evenpost.compose.growth import FILTER_CHECKS, allow_format, allow_formatted, allow_keys, allow_method
from evenpost.compose.text import html_to_text
from evenpost.compose.transfer import quoted_printable, quoted_printable_escaped

_STEPS_A_FILTER = 5
_LONG_CHARS = 1_000
"""To encode less than this costs no more than the loop round that it stands in."""
COUNTED, BOUNDED, ENCODED = "evenpost counted", "evenpost bounded", "evenpost encoded"
WEIGHED, KEPT = "evenpost weighed", "evenpost kept"
"""Filters that evenpost.compose.template puts into the syntax tree. With a space in their names, no author
can."""

_LAZY = frozenset({"map", "select", "reject", "selectattr", "rejectattr", "first", "batch", "list"})
"""Filters that take their items one by one."""
_SHALLOW = _LAZY | {"length", "count", "last", "default", "d", "attr", "reverse", "slice", "abs", "items"}
"""Filters that don't look into the items of a list."""
_SLOW = frozenset({"striptags", "urlize", "wordwrap", "title", "wordcount", "pprint", "xmlattr", "truncate"})


class _CodeGenerator(CodeGenerator):
    """Leaves alone what the encoder returns: it is escaped and checked already. The three methods are the
    ones that Jinja2's own jinja2.nativetypes overrides."""

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        if _is_encoded(node):
            return str(node.as_const(frame.eval_ctx))
        return super()._output_child_to_const(node, frame, finalize)

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        if not _is_encoded(node):
            super()._output_child_pre(node, frame, finalize)

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        if not _is_encoded(node):
            super()._output_child_post(node, frame, finalize)


def _is_encoded(node: nodes.Expr) -> bool:
    return isinstance(node, nodes.Filter) and node.name == ENCODED


class _Wrapped(dict[str, Callable[..., Any]]):
    """Jinja2's filters or tests, each wrapped when it is first asked for, in whatever way: a template uses
    few of the ninety, and to wrap all of them took half of the time in which a small one is compiled. What is
    put in later is taken as it is."""

    def __init__(
        self,
        functions: Mapping[str, Any],
        wrap: Callable[[str, Callable[..., Any]], Callable[..., Any]],
    ) -> None:
        super().__init__()
        self._functions = functions
        self._wrap = wrap

    def __missing__(self, name: str) -> Callable[..., Any]:
        self[name] = wrapped = self._wrap(name, self._functions[name])
        return wrapped

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self._functions

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401  # that would be this very method


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one composer's parts; `html` escapes what is filled in.

    Counting makes it stateful: one thread at a time.
    """

    code_generator_class = _CodeGenerator
    intercepted_binops = frozenset({"+", "*", "**", "%", "/", "//"})

    def __init__(self, *, html: bool = False, derived: bool = False) -> None:
        super().__init__(
            autoescape=html, undefined=StrictUndefined, keep_trailing_newline=True, cache_size=0,
            auto_reload=False,
            finalize=functools.partial(checked_given, budget := Budget()),
        )  # fmt: skip
        self.budget = budget
        del self.globals["lipsum"], self.filters["random"]
        if derived:
            # The author wrote these for HTML; the text part is made from it.
            for name in ("e", "escape", "forceescape"):
                self.filters[name] = str
            self.filters["safe"] = html_to_text
        filters: Any = _Wrapped(self.filters, self._charged)  # Jinja2 types its own functions as `function`
        tests: Any = _Wrapped(self.tests, self._weighing)
        self.filters, self.tests = filters, tests
        encode = quoted_printable_escaped if html else quoted_printable
        self.filters[COUNTED] = self.budget.counted
        self.filters[BOUNDED] = self._bounded
        self.filters[WEIGHED] = self._weighed
        self.filters[KEPT] = self._kept
        self.filters[ENCODED] = self._encoder(encode)

    def _encoder(self, encode: Callable[[Any], str]) -> Callable[[Any], str]:
        def encoded(value: Any) -> str:
            if type(value) is not str or len(value) > _LONG_CHARS:
                self.budget.weigh(value)
            return encode(value)

        return encoded

    def _charged(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that costs what it works on."""
        at = 1 if hasattr(function, "jinja_pass_arg") else 0
        charge = self.budget.spend_on if name in _SHALLOW else self.budget.weigh
        check = FILTER_CHECKS.get(name)

        @functools.wraps(function)
        def charged(*args: Any, **kwargs: Any) -> Any:
            self.budget.spend(_STEPS_A_FILTER)
            if len(args) > at:
                value = args[at]
                if isinstance(value, Iterator):
                    items = self.budget.counted(value)
                    value = items if name in _LAZY else list(items)
                    args = (*args[:at], value, *args[at + 1 :])
                most = limits.SLOW_FILTER_CHARS_MAX
                if name in _SLOW and isinstance(value, str) and len(value) > most:
                    raise SecurityError(f"{name} takes at most {most:,} characters, not {len(value):,}")
                if name == "sum" and isinstance(value, (list, tuple)):
                    # Adding lists up copies what is there already, each time.
                    start = args[at + 2] if len(args) > at + 2 else kwargs.get("start", 0)
                    self.budget.spend(0 if isinstance(start, int) else len(value) ** 2 // 256)
                for arg in (*args[at:], *kwargs.values()):
                    charge(arg)
                if check is not None:
                    check(value, *args[at + 1 :], **kwargs)
            return self._bounded(function(*args, **kwargs))

        return charged

    def _weighing(self, _: str, function: Any) -> Callable[..., Any]:
        """A test (`is in`, `is eq`), which may compare all that it is given."""

        @functools.wraps(function)
        def weighing(*args: Any, **kwargs: Any) -> Any:
            for arg in args:
                self.budget.weigh(arg)
            return function(*args, **kwargs)

        return weighing

    def _weighed(self, value: Any) -> Any:
        self.budget.weigh(value)
        return value

    def _kept(self, value: Any) -> Any:
        """What a namespace keeps from one round of a loop to the next, where it may grow."""
        if isinstance(value, Iterator):
            value = list(self.budget.counted(value))
        return self._weighed(value)

    def _bounded(self, value: Any) -> Any:
        if isinstance(value, (str, list, tuple, bytes, dict)):
            allow(len(value))
            self.budget.spend_on(value)
        elif isinstance(value, int):
            allow_bits(value)
        return value

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        allow_bits(left, right)
        if operator == "*":
            for sized, times in ((left, right), (right, left)):
                if isinstance(sized, (str, list, tuple, bytes)) and isinstance(times, int):
                    allow(len(sized) * times)
            if isinstance(left, int) and isinstance(right, int):
                allow_bit_length(left.bit_length() + right.bit_length())
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            allow_bit_length(left.bit_length() * abs(right))
        elif operator == "%" and isinstance(left, (str, bytes)):
            self.budget.weigh(right)
            allow_formatted(left, (right,))
        return self._bounded(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        # Jinja2 asks wherever an attribute is taken from an object, so nothing gets to `format` around this.
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        spec = value.__self__
        allow_format(spec)

        @functools.wraps(wrapped)
        def weighed(*args: Any, **kwargs: Any) -> str:
            for arg in (*args, *kwargs.values()):
                self.budget.weigh(arg)
            allow_formatted(spec, (*args, *kwargs.values()))
            return wrapped(*args, **kwargs)

        return weighed

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        # Jinja2's own names: the template's keyword arguments must not meet `self` or `context`.
        __self.budget.spend(1)
        owner = getattr(__obj, "__self__", None)
        __self.budget.spend_on(owner)
        if isinstance(owner, (str, bytes, int)):
            for arg in (*args, *kwargs.values()):
                __self.budget.weigh(arg)
            allow_method(owner, __obj.__name__, args, kwargs)
        elif isinstance(owner, (list, tuple)):
            __self.budget.weigh(owner)  # `count` and `index` compare each
        elif (__obj is dict or owner is dict) and args:
            allow_keys(args[0])
        return __self._bounded(super().call(__context, __obj, *args, **kwargs))
