"""The text of a recipient list: opened, its encoding found, handed out in lines, with what is odd noticed.

A file is read at explicit offsets from one open descriptor, so that both passes see the same file even if
another one takes its name in between, and a change inside it is noticed.
"""

import codecs
import io
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

from client.problems import InputError, Problem, unreadable

BLOCK_BYTES = 256 * 1024
"""Read at once: far beyond the cost of a call, far below what memory allows."""

LINE_CHARS_MAX = 1024 * 1024
"""A longer line is no recipient: each may have 64 KB of merge fields."""

STANDARD_INPUT = "-"

Progress = Callable[[int, int], None]
"""Called with bytes read and bytes in all."""

_MAGIC = (
    (b"\x1f\x8b", "is compressed with gzip", "Unpack it: zcat LIST | evenpost submit ... --recipients -"),
    (b"PK\x03\x04", "is a workbook or ZIP file", "Save it as 'CSV UTF-8' in the spreadsheet program"),
    (b"\xd0\xcf\x11\xe0", "is an Excel workbook", "Save it as 'CSV UTF-8' in the spreadsheet program"),
    (b"%PDF", "is a PDF", "Give a CSV or JSONL file"),
)
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: it begins with the same bytes
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class ListText:
    """The text of one list. `lines()` may be called as often as needed, one walk at a time."""

    def __init__(self, file: BinaryIO, name: str, encoding: str | None) -> None:
        self.name = name
        self._file = file
        self._fd = file.fileno()
        self._opened = self._state()
        self.head = os.pread(self._fd, BLOCK_BYTES, 0)
        for magic, what, hint in _MAGIC:
            if self.head.startswith(magic):
                raise InputError([Problem("wrong_format", what, hint, name)])
        self.encoding = _known_encoding(encoding, name) if encoding else _found_encoding(self.head, name)
        self._wide = codecs.lookup(self.encoding).name.startswith(("utf-16", "utf-32"))
        self.suspicious = False
        """True from the moment that a block had a NUL or bytes that aren't text in this encoding: from then
        on each row has to be looked at. A row is never read before its block."""

    @property
    def size(self) -> int:
        return self._opened[0]

    def close(self) -> None:
        self._file.close()

    def check_unchanged(self) -> None:
        """Raises InputError if somebody wrote into the file since it was opened."""
        if self._state() != self._opened:
            hint = "Submit again when nothing writes to it any more"
            raise InputError([Problem("changed", "the file was changed while it was read", hint, self.name)])

    def lines(self, progress: Progress | None = None) -> Iterator[str]:
        """Each line with its end; \\n, \\r\\n and \\r all end one. Undecodable bytes come as surrogates."""
        return chain.from_iterable(map(lines_of, self.blocks(progress)))

    def blocks(self, progress: Progress | None = None) -> Iterator[str]:
        """The same in pieces of a quarter of a megabyte, each of which ends with a line."""
        self.suspicious = False
        for text in self._texts(progress):
            if "\0" in text or (not text.isascii() and self._has_undecodable(text)):
                self.suspicious = True
            yield text

    def undecodable(self, text: str) -> str | None:
        """What in this text isn't of the file's encoding, in words; None if all is well."""
        if text.isascii() or not self._has_undecodable(text):
            return None
        byte = next((ord(c) - 0xDC00 for c in text if "\udc80" <= c <= "\udcff"), None)
        return f"not {self.encoding}" if byte is None else f"byte 0x{byte:02X} is not {self.encoding}"

    def encoding_hint(self, text: str) -> str:
        """What the text would be in Windows's encoding, if that may be what it is."""
        if not self.encoding.startswith("utf-8"):
            return "Save the list as UTF-8, or give its --encoding"
        try:
            guess = text.encode("utf-8", "surrogateescape").decode("cp1252")
        except ValueError:
            return "Save the list as UTF-8, or give its --encoding, such as latin-1"
        return f"If {guess[:40]!r} is right, give --encoding cp1252; otherwise save the list as UTF-8"

    def _texts(self, progress: Progress | None) -> Iterator[str]:
        """The file in pieces that end with a line."""
        decoder = codecs.getincrementaldecoder(self.encoding)("replace" if self._wide else "surrogateescape")
        offset, carry = 0, ""
        while block := os.pread(self._fd, BLOCK_BYTES, offset):
            offset += len(block)
            text = carry + decoder.decode(block)
            if offset == len(block):
                text = text.removeprefix("\ufeff")  # utf-16-le and others that are given leave it
            cut = text.rfind("\n") + 1 or text.rfind("\r", 0, len(text) - 1) + 1
            carry = text[cut:]
            if len(carry) > LINE_CHARS_MAX:
                hint = "Is this a list of recipients, one a line?"
                reason = "a line is over a million characters"
                raise InputError([Problem("wrong_format", reason, hint, self.name)])
            yield text[:cut]
            if progress is not None:
                progress(offset, max(self.size, offset))
        yield carry + decoder.decode(b"", True)

    def _has_undecodable(self, text: str) -> bool:
        if self._wide:
            return "\ufffd" in text
        try:
            text.encode()
        except UnicodeEncodeError:
            return True
        return False

    def _state(self) -> tuple[int, int]:
        state = os.fstat(self._fd)
        return state.st_size, state.st_mtime_ns


def lines_of(text: str) -> Iterable[str]:
    """Its lines, each with its end."""
    return io.StringIO(text, newline="")


def open_text(source: str | Path, encoding: str | None) -> ListText:
    """Opens a file, or standard input for "-". Raises InputError if it can't be read."""
    if str(source) == STANDARD_INPUT:
        return _listed(_spool(sys.stdin.buffer), "standard input", encoding)
    path = Path(source)
    try:
        file: BinaryIO = path.open("rb")
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # a pipe can be read only once
            with file:
                file = _spool(file)
    except OSError as error:
        raise InputError([Problem("unreadable", *_why_not(path, error), str(path))]) from None
    return _listed(file, str(path), encoding)


def _listed(file: BinaryIO, name: str, encoding: str | None) -> ListText:
    try:
        return ListText(file, name, encoding)
    except BaseException:
        file.close()
        raise


def _spool(stream: BinaryIO) -> BinaryIO:
    """A temporary file without a name, with all that the stream has."""
    spooled = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  the list closes it
    while block := stream.read(BLOCK_BYTES):
        spooled.write(block)
    spooled.flush()
    return spooled


def _why_not(path: Path, error: OSError) -> tuple[str, str]:
    hint = ""
    if isinstance(error, FileNotFoundError):
        hint = "Is the path right? It is relative to the campaign file, or to here"
        if "@" in str(path):
            hint = "To send to one address: evenpost send --to ADDRESS; from Python: [address]"
    return unreadable(error), hint


def _known_encoding(encoding: str, name: str) -> str:
    try:
        "".encode(encoding)  # looks it up, and refuses codecs that aren't for text
    except (LookupError, ValueError):
        hint = "Usual ones: utf-8, utf-16, cp1252, latin-1"
        raise InputError([Problem("bad_option", f"unknown encoding {encoding!r}", hint, name)]) from None
    return "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding


def _found_encoding(head: bytes, name: str) -> str:
    for bom, encoding in _BOMS:
        if head.startswith(bom):
            return encoding
    sample = head[:1024]
    if sample.count(0) > len(sample) // 4:  # Latin text in UTF-16: each second byte
        guess = "utf-16-be" if sample[:1] == b"\0" else "utf-16-le"
        hint = f"Save it as UTF-8, or give --encoding {guess}"
        raise InputError([Problem("wrong_encoding", "looks like UTF-16 without its mark", hint, name)])
    return "utf-8-sig"
