"""Every bound of composing: its name ends in its unit, its reason stands beside it."""

SOURCE_CHARS_MAX = 2_000_000
"""One part of a template. Gmail clips a message at 102 KB; compiling this much takes about a second."""

TAG_CHARS_MAX = 50_000
"""Of those, in Jinja2's tags: what it compiles takes a hundred times as long as text does. A worker that
compiles says nothing to its broker, so it has to be done within a heartbeat or two."""

HEADER_SOURCE_CHARS_MAX = 10_000
"""One header of a template."""

MAILBOX_SOURCE_CHARS_MAX = 2_000
"""The same of addresses, which are told apart in a time that grows with the square of their length."""

OUTPUT_CHARS_MAX = 10_000_000
"""What a part may grow to for one recipient. Larger mail is refused by most servers anyway."""

STEPS_MAX = 200_000
"""Loop rounds, calls and quarters of a kilobyte worked on while one message is made: about 20 ms. More is a
mistake or an attack, and while it lasts the worker does nothing else."""

PROCESSOR_S_MAX = 1.0
"""Seconds of computing for one message, should its steps be slow ones: no longer than a heartbeat."""

SLOW_FILTER_CHARS_MAX = 100_000
"""What filters take whose time grows faster than their text (urlize, striptags, wordwrap, ...)."""

NESTING_MAX = 100
"""Lists in lists made inside a template."""

VALUE_CHARS_MAX = 1_000_000
"""A text or list made inside a template by repeating, joining or padding."""

SEARCH_CHARS_MAX = 20_000_000
"""The product of two texts' lengths, for what Python searches in as many steps."""

KEYS_MAX = 1_000
"""Of a dictionary or set made inside a template. The hashes of numbers aren't random: so many that all have
the same one take a tenth of a second, ten times as many ten seconds."""

INTEGER_BITS_MAX = 10_000
"""An integer made inside a template: `9**9**9` would run for hours."""

LINE_OCTETS_MAX = 998
"""A line without its CRLF (RFC 5322 2.1.1)."""

HEADER_LINE_CHARS_MAX = 78
"""Where a header is folded (RFC 5322 2.1.1)."""

ENCODED_WORD_CHARS_MAX = 75
"""RFC 2047 section 2."""

HEADER_CHARS_MAX = 20_000
"""The text of one header for one recipient. Servers refuse much longer headers."""

BODY_LINE_CHARS_MAX = 76
"""A line of base64 or quoted-printable (RFC 2045 6.7 and 6.8)."""
