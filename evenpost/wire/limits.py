"""Every bound of the protocol: its name ends in its unit, its reason stands beside it."""

FRAME_BYTES_MAX = 40 * 1024 * 1024
"""One frame on the wire. A template with its attachments is the largest thing that is ever sent."""

WORD_BYTES_MAX = 16 * 1024
"""The body of a message that carries neither a template nor rows."""

WORKER_FRAME_BYTES_MAX = 8 * 1024 * 1024
"""The same of what a worker sends: no template. The workers' endpoint cuts off who sends more."""

HELLO_BYTES_MAX = 8 * 1024 * 1024
"""A worker's hello with all that it holds."""

OUTCOMES_BYTES_MAX = 8 * 1024 * 1024
"""OUTCOMES_ROWS_MAX rows with the longest replies, in four-byte characters."""

TEMPLATE_BYTES_MAX = 32 * 1024 * 1024
"""All parts and attachments of one campaign. Big providers refuse messages over 25-35 MB."""

CHUNK_ROWS_MAX = 5_000
"""Recipients in one RECIPIENTS chunk: one group of rows for the journal, a few ms of its time."""

CHUNK_BYTES_MAX = 8 * 1024 * 1024
"""Bytes in one RECIPIENTS chunk. Clients close a chunk early when its rows are fat."""

CHUNKS_IN_FLIGHT_MAX = 8
"""Chunks a client sends ahead of their acknowledgement: hides the flush, bounds the broker's memory."""

RECIPIENTS_MAX = 2**32 - 1
"""Recipients of one campaign: a message's number is (campaign << 32) | index."""

CAMPAIGN_NUMBER_MAX = 2**31 - 1
"""The same number has to fit in 63 bits: SQLite's integers."""

FIELDS_MAX = 200
"""Merge fields of one campaign."""

ROW_FIELDS_BYTES_MAX = 64 * 1024
"""The packed merge fields of one recipient."""

ADDRESS_BYTES_MAX = 320
"""An address: 64 for the local part, @, 255 for the domain (RFC 5321 4.5.3.1)."""

ATTACHMENTS_MAX = 100
"""Of one campaign. Their bytes are bounded by the frame; a million empty ones would fit in it."""

WORKERS_MAX = 10_000
"""Workers that a broker knows. Each has a row in the journal and a place in memory, for ever."""

HEADERS_MAX = 100
"""Own headers of one campaign."""

NAME_CHARS_MAX = 200
"""A name given by a person: campaign, worker, pool, submission id."""


def is_name(text: str) -> bool:
    """Whether it can be the name of a worker or a pool: 1 to NAME_CHARS_MAX printable characters."""
    return 0 < len(text) <= NAME_CHARS_MAX and text.isprintable()


SERVER_CHARS_MAX = 1_000
"""host:port and account of a server."""

DIGEST_CHARS_MAX = 128
"""The digest of a list of recipients: room for 512 bits in hexadecimal."""

SCHEDULE_CHARS_MAX = 200
"""A rate or a sending window as people write it."""

WEIGHT_MAX = 1_000
"""Of a server or a campaign; 100 is the usual one."""

EXPLANATION_ROWS_MAX = 200
"""Servers that one explanation goes through, the best first."""

REPLY_CHARS_MAX = 500
"""What is kept of an SMTP reply. RFC 5321 4.5.3.1.5 allows 512 a line; servers send more."""

BATCH_MESSAGES_MAX = 500
"""Messages in one batch: the unit of dispatch."""

OUTCOMES_ROWS_MAX = 2_000
"""Outcomes in one OUTCOMES message."""

PAGE_ROWS_MAX = 5_000
"""Rows in one page of a report or trace."""

STATUS_ROWS_MAX = 1_000
"""Campaigns in one STATUS reply."""

HOLDING_BATCHES_MAX = 20_000
"""Batches a worker can say it holds when it says HELLO."""

TEMPLATES_SENT_MAX = 200
"""Templates a broker takes a worker to have: the most recently used ones. A worker keeps twice as many."""

TEMPLATES_SENT_BYTES_MAX = 128 * 1024 * 1024
"""The same in bytes."""

ATTEMPTS_KEPT_MAX = 20
"""Earlier attempts kept with a message."""

assert CAMPAIGN_NUMBER_MAX << 32 | RECIPIENTS_MAX < 2**63
assert TEMPLATE_BYTES_MAX + 1024 * 1024 <= FRAME_BYTES_MAX
assert CHUNK_BYTES_MAX + 1024 * 1024 <= FRAME_BYTES_MAX
assert max(HELLO_BYTES_MAX, OUTCOMES_BYTES_MAX) <= WORKER_FRAME_BYTES_MAX
assert CHUNK_ROWS_MAX >= BATCH_MESSAGES_MAX
