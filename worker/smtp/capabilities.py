"""What a server says it can do, from its answer to EHLO."""

import msgspec

from worker.smtp.reply import Reply


class Capabilities(msgspec.Struct, frozen=True):
    """Extensions in use here. A server that knows only HELO has none."""

    pipelining: bool = False
    chunking: bool = False
    starttls: bool = False
    smtputf8: bool = False
    size_offered: bool = False
    size_bytes_max: int = 0
    """0: no limit, or none that it tells."""
    auth: frozenset[str] = frozenset()


def parse(reply: Reply, discard: frozenset[str] = frozenset()) -> Capabilities:
    """`discard`: keywords, in capitals, that are taken as not said."""
    names: set[str] = set()
    auth: set[str] = set()
    size_bytes_max = 0
    for line in reply.lines[1:]:  # the first one greets
        # "AUTH=LOGIN" is how some old servers say it.
        words = line.upper().replace("AUTH=", "AUTH ").split()
        if not words:
            continue
        name, *parameters = words
        if name in discard:
            continue
        names.add(name)
        if name == "AUTH":
            auth.update(parameters)
        elif name == "SIZE" and parameters and parameters[0].isascii() and parameters[0].isdigit():
            size_bytes_max = int(parameters[0][:18])
    return Capabilities(
        pipelining="PIPELINING" in names,
        chunking="CHUNKING" in names,
        starttls="STARTTLS" in names,
        smtputf8="SMTPUTF8" in names,
        size_offered="SIZE" in names,
        size_bytes_max=size_bytes_max,
        auth=frozenset(auth),
    )
