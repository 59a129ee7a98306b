"""The quick way to a message whose parts are text with `{{ name }}`s in it: most of what is sent.

All of it is one list of texts, constant but for the places where values go; each value is encoded once,
however often it comes. What needs more than filling in (a condition, a name in From) is rendered by its own
part and takes its place in the list. Values have to be text: for others, and for what can't be sent, this
gives None, and the parts, one by one, do it or say what is wrong. It takes half of the time that they take.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evenpost.compose import headers
from evenpost.compose.errors import HeaderError
from evenpost.compose.lines import Line, TextHeader, ToHeader
from evenpost.compose.template import Part, PlainPart
from evenpost.compose.transfer import SOFT_BREAK, is_its_own_chunk, quoted_printable, quoted_printable_escaped

Scope = Mapping[str, Any]
Render = Callable[[Scope], str]
Fill = Callable[[Sequence[str]], str]

_SHORT_CHARS = 900
"""An address up to this fits into a header's line by itself."""


class Filling:
    """One campaign's list of texts. Add what a message consists of, in its order; then fill it again and
    again."""

    def __init__(self, names: Sequence[str], wire: Callable[[str], str]) -> None:
        """`names` are those of the values that `fill` is given; `wire` is wire_address()."""
        self._index = {name: number for number, name in enumerate(names)}
        self._wire = wire
        self._texts: list[str] = [""]
        self._places: dict[int, tuple[list[int], list[int]]] = {}
        """Of each value that is filled in: where it goes into text, where into HTML."""
        self._fills: list[tuple[int, Fill]] = []
        self._also_text: set[int] = set()
        """Values that are used in headers, and have to be text as well."""
        self._renders: list[tuple[int, Render]] = []
        self._steps: list[str | Render] = []
        """The message part by part, for `render`."""
        self._may_append = False

    def add(self, text: str) -> None:
        self._steps.append(text)
        self._add_text(text)

    def add_line(self, line: Line) -> None:
        if line.constant is not None:
            self.add(line.constant)
            return
        self._steps.append(line.render)
        if not all(self._knows(part) for part in line.parts):
            self._renders.append((self._gap(), line.render))
        elif isinstance(line, TextHeader):
            self._fills.append((self._gap(), self._text_header(line)))
        elif isinstance(line, ToHeader):
            self._fills.append((self._gap(), self._to_header(line)))
        else:
            self._renders.append((self._gap(), line.render))

    def add_body(self, part: Part) -> None:
        if part.constant is not None:
            self.add(part.constant)
            return
        self._steps.append(part.body)
        if isinstance(part, PlainPart) and part.encoded and self._knows(part):
            for text, name in part.pieces():
                if name is None:
                    self._add_text(text)
                else:
                    places = self._places.setdefault(self._index[name], ([], []))
                    places[part.html].append(self._gap())
        else:
            self._renders.append((self._gap(), part.body))

    @property
    def renders(self) -> bool:
        """Whether `fill` needs a scope."""
        return bool(self._renders)

    def fill(self, head: str, values: Sequence[object], scope: Scope | None) -> str | None:
        """`head`, and the texts with these values in them. None: these values are for the parts. Raises what
        a part raises that is rendered."""
        texts = self._texts.copy()
        texts[0] = head
        try:
            for number, (in_text, in_html) in self._places.items():
                value = values[number]
                if type(value) is not str:
                    return None
                as_text = as_html = value + SOFT_BREAK
                if not is_its_own_chunk(value):
                    as_text = quoted_printable(value) if in_text else ""
                    as_html = quoted_printable_escaped(value) if in_html else ""
                for place in in_text:
                    texts[place] = as_text
                for place in in_html:
                    texts[place] = as_html
            for number in self._also_text:
                if type(values[number]) is not str:
                    return None
            for place, fill in self._fills:
                texts[place] = fill(values)  # type: ignore[arg-type]  # its values were looked at above
        except (HeaderError, UnicodeEncodeError):
            return None
        if scope is not None:
            for place, render in self._renders:
                texts[place] = render(scope)
        return "".join(texts)

    def render(self, head: str, scope: Scope) -> str:
        """`head`, and what the parts make of any values. Raises ComposeError."""
        return head + "".join([step if isinstance(step, str) else step(scope) for step in self._steps])

    def _add_text(self, text: str) -> None:
        if self._may_append:
            self._texts[-1] += text
        else:
            self._texts.append(text)
        self._may_append = True

    def _knows(self, part: Part) -> bool:
        return isinstance(part, PlainPart) and part.uses <= self._index.keys()

    def _gap(self) -> int:
        self._texts.append("")
        self._may_append = False
        return len(self._texts) - 1

    def _text_header(self, line: TextHeader) -> Fill:
        name, encode, fill = line.name, line.encode, self._plain(line.parts[0])
        return lambda values: encode(name, fill(values))

    def _to_header(self, line: ToHeader) -> Fill:
        address = self._index["email"]
        self._also_text.add(address)
        if line.parts:
            display = self._plain(line.parts[0])
            return lambda values: headers.mailbox("To", display(values), values[address])
        wire = self._wire

        def fill(values: Sequence[str]) -> str:
            wired = wire(values[address])
            return f"To: {wired}\r\n" if len(wired) <= _SHORT_CHARS else headers.mailbox("To", "", wired)

        return fill

    def _plain(self, part: Part) -> Fill:
        """A part of a header, which isn't encoded yet."""
        assert isinstance(part, PlainPart)
        texts: list[str] = []
        places: list[tuple[int, int]] = []
        for number, (text, name) in enumerate(part.pieces()):
            texts.append(text)
            if name is not None:
                places.append((number, self._index[name]))
                self._also_text.add(self._index[name])

        def fill(values: Sequence[str]) -> str:
            filled = texts.copy()
            for place, number in places:
                filled[place] = values[number]
            return "".join(filled)

        return fill
