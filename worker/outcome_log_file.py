"""The bytes of an outcome log: header, records, lock. outcome_log.py says what they mean."""

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from evenpost.wire import codec
from evenpost.wire.errors import WireError
from evenpost.wire.messages import Outcome, Row

MAGIC = b"EPOL"
VERSION = 1
_HEADER = struct.Struct("<4sHI16sI")
"""Magic, version, pid of the holder, id, CRC-32 of magic, version and id."""
_RECORD = struct.Struct("<BII")
"""Kind, length of the body, CRC-32 of the body seeded with the kind."""
STATE, BLOCK = 1, 2
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class OutcomeLogError(Exception):
    """The log can't be used; the message says why and what to do."""


class Begun(Row, frozen=True):
    batch: int
    campaign: int
    index: int
    attempt: int
    at: int


class State(Row, frozen=True):
    """`boot` names the machine's boot in which it was written; `clean`: nothing was written after it."""

    incarnation: int
    next_row: int
    confirmed: int
    boot: str
    clean: bool


class Block(Row, frozen=True):
    """`first`: the number of the first of `outcomes`."""

    first: int
    confirmed: int
    begun: list[Begun]
    outcomes: list[Outcome]


def header(id_: str) -> bytes:
    raw = bytes.fromhex(id_)
    return _HEADER.pack(MAGIC, VERSION, os.getpid(), raw, _header_crc(raw))


def read_header(content: bytes, path: Path) -> str:
    """The id of the log. Raises OutcomeLogError: not a log, or of another version."""
    if content[: len(MAGIC)] != MAGIC or len(content) < _HEADER.size:
        raise OutcomeLogError(f"{path} is no outcome log of Evenpost: give another --outcome-log")
    _, version, _, id_, crc = _HEADER.unpack_from(content)
    if version != VERSION:
        raise OutcomeLogError(
            f"{path} is an outcome log of version {version}, this release reads version {VERSION}: let the "
            "release that wrote it report what is in it, or give another --outcome-log"
        )
    if crc != _header_crc(id_):
        raise OutcomeLogError(f"{path} is damaged at its start: keep it aside and give another --outcome-log")
    return str(id_.hex())


def _header_crc(id_: bytes) -> int:
    return zlib.crc32(id_, zlib.crc32(MAGIC) ^ VERSION)


def record(kind: int, body: bytes) -> bytes:
    return _RECORD.pack(kind, len(body), zlib.crc32(body, kind)) + body


def records(content: bytes) -> Iterator[tuple[State | Block, int]]:
    """The records after the header up to the first that is torn or damaged, each with where it ends."""
    at = _HEADER.size
    while at + _RECORD.size <= len(content):
        kind, length, crc = _RECORD.unpack_from(content, at)
        end = at + _RECORD.size + length
        body = content[at + _RECORD.size : end]
        if end > len(content) or zlib.crc32(body, kind) != crc:
            return
        try:
            if kind == STATE:
                yield codec.unpack_struct(body, State), end
            elif kind == BLOCK:
                yield codec.unpack_struct(body, Block), end
            else:
                return
        except WireError:
            return
        at = end


RECORDS_AT = _HEADER.size
"""Where the first record begins."""


def is_torn(tail: bytes) -> bool:
    """Whether what follows the last good record is what a crash leaves: a record cut short, or the zeros of
    a power cut. Anything else is damage."""
    if not tail.strip(b"\0") or len(tail) < _RECORD.size:
        return True
    kind, length, _ = _RECORD.unpack_from(tail)
    return kind in (STATE, BLOCK) and _RECORD.size + length > len(tail)


def lock(path: Path) -> int:
    """A descriptor of the file at `path`, made if it isn't there, and locked. Raises OutcomeLogError."""
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OutcomeLogError(f"can't open the outcome log {path}: {error.strerror}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            opened, current = os.fstat(fd), path.stat()
            if (opened.st_dev, opened.st_ino) == (current.st_dev, current.st_ino):
                return fd
        except FileNotFoundError:
            pass  # as below
        except BlockingIOError:
            holder = _holder(fd)
            os.close(fd)
            raise OutcomeLogError(
                f"another worker{holder} has the outcome log {path}: each worker on a machine needs a "
                "--name (or an --outcome-log) of its own"
            ) from None
        except OSError as error:
            os.close(fd)
            raise OutcomeLogError(f"can't lock the outcome log {path}: {error.strerror}") from None
        os.close(fd)  # its holder put a new file in its place while we looked: look again


def _holder(fd: int) -> str:
    head = os.pread(fd, _HEADER.size, 0)
    return f" (process {_HEADER.unpack(head)[2]})" if len(head) == _HEADER.size else ""


def read_all(fd: int, path: Path) -> bytes:
    try:
        size, parts = os.fstat(fd).st_size, []
        while size and (part := os.read(fd, size)):
            parts.append(part)
    except OSError as error:
        raise OutcomeLogError(f"can't read the outcome log {path}: {error.strerror}") from None
    return b"".join(parts)


def write(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):  # a full disk takes a part and refuses the rest
        written += os.write(fd, data[written:])


def sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def boot_id() -> str:
    """Names this boot of the machine; empty where the system doesn't say."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
