"""evenpost-broker's options about what peers may take, and how many of them."""

import resource
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import click

from broker.guard import MIB, Limits
from broker.settings import Settings
from evenpost.runtime.settings import F, WholeRange, option

_DEFAULTS = Settings()
_CLIENTS, _WORKERS = _DEFAULTS.client_limits, _DEFAULTS.worker_limits
DESCRIPTORS_SPARE = 200
"""Files and sockets that aren't peers' connections: the journal, the listeners, ZeroMQ's own."""


def _limit(name: str, kind: WholeRange, default: int, text: str, *, unit: str = "COUNT") -> Callable[[F], F]:
    decorator: Callable[[F], F] = option(name, type=kind, default=default, metavar=unit, help=text)
    return decorator


_OPTIONS = (
    _limit(
        "--client-connections-max", WholeRange(1, 1_000_000), _CLIENTS.connections_max,
        "Clients' connections at once; beyond them, those that have said nothing are ended. Each takes a "
        "file descriptor.",
    ),
    _limit(
        "--worker-connections-max", WholeRange(1, 1_000_000), _WORKERS.connections_max,
        "The same of workers.",
    ),
    _limit(
        "--client-messages-max", WholeRange(10, 10_000_000), int(_CLIENTS.messages_per_s),
        "Messages of one client connection a second; beyond them it is asked to wait.",
    ),
    _limit(
        "--client-bytes-max", WholeRange(0, 10_000_000), _CLIENTS.bytes_per_min // MIB,
        "Megabytes that one client may send a minute. 0: no limit.", unit="MB",
    ),
    _limit(
        "--client-submissions-max", WholeRange(1, 1_000_000), _CLIENTS.open_submissions_max,
        "Submissions of one client that are open, not committed, at once.",
    ),
    _limit(
        "--client-recipients-max", WholeRange(0, 2**63 - 1), _CLIENTS.recipients_max,
        "Recipients of one client that wait to be sent; beyond them it is asked to wait. 0: no limit.",
    ),
    _limit(
        "--memory-max", WholeRange(0, 10_000_000), _DEFAULTS.memory_max_bytes // MIB,
        "Above so much memory of its own, the broker ends the connections that hold much of it unread. "
        "0: never.", unit="MB",
    ),
)  # fmt: skip


def limit_options(function: F) -> F:
    """The options whose values `parse_limits` takes."""
    for decorator in reversed(_OPTIONS):
        function = decorator(function)
    return function


@dataclass(frozen=True, slots=True)
class ParsedLimits:
    clients: Limits
    workers: Limits
    memory_max_bytes: int


def parse_limits(given: dict[str, Any]) -> ParsedLimits:
    """The limits in the words of `limit_options`. Raises this process's limit of open files as far as it
    goes, and click.UsageError where that isn't far enough for the connections that were asked for."""
    clients, workers = given["client_connections_max"], given["worker_connections_max"]
    have = raise_descriptors()
    if clients + workers + DESCRIPTORS_SPARE > have:
        raise click.UsageError(
            f"--client-connections-max {clients} and --worker-connections-max {workers} need "
            f"{clients + workers + DESCRIPTORS_SPARE} open files, and this process may have {have}: lower "
            "them, or raise the limit (LimitNOFILE= in systemd, ulimit -Hn in a shell)"
        )
    return ParsedLimits(
        replace(
            _CLIENTS,
            connections_max=clients,
            messages_per_s=float(given["client_messages_max"]),
            bytes_per_min=given["client_bytes_max"] * MIB,
            open_submissions_max=given["client_submissions_max"],
            recipients_max=given["client_recipients_max"],
        ),
        replace(_WORKERS, connections_max=workers),
        given["memory_max"] * MIB,
    )


def raise_descriptors() -> int:
    """Raises this process's limit of open files to the hard one; the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 2**31
