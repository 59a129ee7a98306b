"""A text part made from HTML. Works on templates too: Jinja2's tags come out where they stood.

The converter only ever writes forwards, so a loop or a condition in the HTML still is one in the text.
Links become `text (url)`, list items get a star or number, cells of a row stand on one line, images
leave their alt text, and what nobody sees (style, script, head, `display: none`) is dropped.
"""

import re
from html.parser import HTMLParser
from typing import Any

from jinja2 import Environment
from jinja2.exceptions import TemplateSyntaxError

_FIRST, _LAST = 0xF0000, 0xFFFFD
"""A private plane of Unicode: one character stands for one tag of Jinja2's while HTML is parsed."""
_MARK = re.compile(f"[{chr(_FIRST)}-{chr(_LAST)}]")
_SPACES = re.compile(r"[ \t\r\n\f\xa0]+")
_PIECES = re.compile(f"[{chr(_FIRST)}-{chr(_LAST)}]|[^{chr(_FIRST)}-{chr(_LAST)}]+")

_ZEROS = re.compile(r"&#0+(?=[0-9])")
_HUGE_REFERENCE = re.compile(r"&#[0-9]{8,};?")
_OPEN_MAX = 250
"""Elements open at once; browsers stop counting at twice as many. Each end looks through them."""

_INDENTED_MAX = 20
"""Lists in lists that are set further to the right."""

_BRACE = re.compile(r"\{(?=[{%#" + f"{chr(_FIRST)}-{chr(_LAST)}])")
"""A brace that Jinja2 would take for its own, in text that isn't Jinja2's."""


def _tags(names: str) -> frozenset[str]:
    return frozenset(names.split())


_VOID = _tags("area base br col embed hr img input link meta source track wbr")
_DROPPED = _tags("head style script title template svg object noscript select textarea button")
_PARAGRAPHS = _tags("p h1 h2 h3 h4 h5 h6 blockquote pre table ul ol dl figure hr")
_LINES = _tags(
    "div section article header footer main nav aside address center tr li dt dd caption form fieldset "
    "figcaption body html"
)
_HIDDEN = re.compile(r"display\s*:\s*none|mso-hide\s*:\s*all", re.I)


def html_to_text(html: Any) -> str:
    """The text of an HTML document or fragment."""
    return _convert(_MARK.sub("", str(html)), [])


def template_to_text(source: str, environment: Environment) -> str:
    """The Jinja2 template of a text part from that of an HTML part. Raises TemplateSyntaxError."""
    marks: list[str] = []
    out: list[str] = []
    tag: list[str] = []
    for _, kind, value in environment.lex(_MARK.sub("", source)):
        if kind.startswith(("raw", "comment")):
            continue  # raw text is text: what looks like a tag in it is quoted below, with the rest
        if kind == "data":
            out.append(value)
            continue
        tag.append(value)
        if kind in ("variable_end", "block_end"):
            if len(marks) > _LAST - _FIRST:
                raise TemplateSyntaxError("too many tags", 1)
            out.append(chr(_FIRST + len(marks)))
            marks.append("".join(tag))
            tag.clear()
    text = _BRACE.sub("{{ '{' }}", _convert("".join(out), marks))
    return _MARK.sub(lambda mark: marks[ord(mark[0]) - _FIRST], text)


def _convert(html: str, marks: list[str]) -> str:
    writer = _Writer(marks)
    # Python reads a reference's digits without a bound, and raises for more than 4,300 of them.
    writer.feed(_HUGE_REFERENCE.sub("\ufffd", _ZEROS.sub("&#", html)))
    writer.end()
    return writer.result()


class _Writer(HTMLParser):
    def __init__(self, marks: list[str]) -> None:
        super().__init__(convert_charrefs=True)
        self._marks = marks
        self._out: list[str] = []
        self._breaks = 0
        """Line breaks owed before the next text."""
        self._written = 2
        """Line breaks that the output ends with already; 2 at the start, where none is wanted."""
        self._space = False
        self._lists: list[int | None] = []
        """The open lists: the next number, or None for bullets."""
        self._links: list[tuple[str, int]] = []
        self._pre = 0
        self._dropped: list[str] = []
        """Open elements from the outermost one that isn't shown."""

    def end(self) -> None:
        """Behind the last piece. A tag or comment that never ends hides the rest, as it does in a browser.
        (`close` would look for its end again from each place on: hours for a megabyte.)"""
        if self.rawdata.startswith("<") and len(self.rawdata) > 1:
            self.rawdata = ""
        self.close()

    def parse_marked_section(self, i: int, report: int = True) -> int:
        """`<![...]>` is a comment up to its first `>`, as HTML has it; html.parser raises for what it doesn't
        know."""
        end = self.rawdata.find(">", i)
        return end + 1 if end >= 0 else -1

    def result(self) -> str:
        return "".join(self._out).rstrip(" \n") + "\n"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if self._dropped:
            if tag not in _VOID and len(self._dropped) < _OPEN_MAX:
                self._dropped.append(tag)
            return
        if tag not in _VOID and (
            tag in _DROPPED or "hidden" in given or _HIDDEN.search(given.get("style", ""))
        ):
            self._dropped.append(tag)
            return
        self._block(tag)
        match tag:
            case "br":
                self._breaks = min(2, self._breaks + 1)
            case "hr":
                self._write("-" * 40)
                self._breaks = 2
            case "img" if alt := given.get("alt", "").strip():
                self.handle_data(alt)
            case "a":
                if self._links:  # there are no links in links: a second one ends the first
                    self._link(*self._links.pop())
                    self._space = True
                self._links.append((given.get("href", "").strip(), len(self._out)))
            case "ul":
                self._lists.append(None)
            case "ol":
                start = given.get("start", "1")
                self._lists.append(int(start) if start.isdecimal() and len(start) < 10 else 1)
            case "li":
                self._item()
            case "td" | "th":
                if not self._breaks and not self._written:
                    self._write("  ")
            case "pre":
                self._pre += 1
            case "q":
                self._write('"')

    def handle_endtag(self, tag: str) -> None:
        if self._dropped:
            if tag in self._dropped:  # elements that were left open end with the one around them
                del self._dropped[len(self._dropped) - 1 - self._dropped[::-1].index(tag) :]
            return
        match tag:
            case "a" if self._links:
                self._link(*self._links.pop())
            case "ul" | "ol" if self._lists:
                self._lists.pop()
            case "pre" if self._pre:
                self._pre -= 1
            case "q":
                self._write('"')
        self._block(tag)

    def handle_data(self, data: str) -> None:
        if self._dropped:
            return
        for piece in _PIECES.findall(data):
            if _MARK.match(piece):
                self._mark(piece)
            elif self._pre:
                self._write(piece)
                self._written = len(piece) - len(piece.rstrip("\n"))
            else:
                text = _SPACES.sub(" ", piece)
                if text.startswith(" "):
                    self._space = True
                if text.strip(" "):
                    self._write(text.strip(" "))
                    self._space = text.endswith(" ")

    def _mark(self, mark: str) -> None:
        if self._marks[ord(mark) - _FIRST].startswith("{{"):
            self._write(mark)
            return
        # A statement writes nothing itself. Breaks go before it, so that they don't depend on it.
        self._flush()
        self._out.append(mark)

    def _item(self) -> None:
        depth = min(max(0, len(self._lists) - 1), _INDENTED_MAX)
        bullet = "*"
        if self._lists and (number := self._lists[-1]) is not None:
            bullet, self._lists[-1] = f"{number}.", number + 1
        self._write(f"{'  ' * depth}{bullet}")
        self._space = True

    def _link(self, href: str, since: int) -> None:
        target = href.removeprefix("mailto:").removeprefix("tel:")
        text = "".join(self._out[since:]).strip()
        if href and not href.startswith("#") and text not in (target, href) and text:
            self._space = True
            self._write(f"({target})")
        elif href and not href.startswith("#") and not text:
            self._write(target)

    def _block(self, tag: str) -> None:
        if tag in _PARAGRAPHS and not (tag in ("ul", "ol") and len(self._lists) > 0):
            self._breaks = 2
        elif tag in _LINES or tag in ("ul", "ol"):
            self._breaks = max(self._breaks, 1)

    def _flush(self) -> None:
        if self._breaks > self._written:
            self._out.append("\n" * (self._breaks - self._written))
            self._written, self._space = self._breaks, False
        elif self._written:
            self._space = False
        self._breaks = 0
        if self._space:
            self._out.append(" ")
            self._space = False

    def _write(self, text: str) -> None:
        self._flush()
        self._out.append(text)
        self._written = 0
