"""evenpost-broker's options about what peers may take, and how many of them."""

import resource
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import click

from broker.guard import MIB, Limits
from broker.settings import Settings
from evenpost.runtime.settings import option

F = TypeVar("F", bound=Callable[..., Any])

_CLIENTS, _WORKERS, _DEFAULTS = Settings().client_limits, Settings().worker_limits, Settings()
DESCRIPTORS_SPARE = 200
"""Files and sockets that aren't peers' connections: the journal, the listeners, ZeroMQ's own."""


def limit_options(function: F) -> F:
    """The options whose values `parse_limits` takes."""
    for decorator in reversed(
        [
            option(
                "--client-connections-max",
                type=click.IntRange(1, 1_000_000),
                default=_CLIENTS.connections_max,
                metavar="COUNT",
                help="Clients' connections at once; beyond them, those that have said nothing are ended. "
                "Each takes a file descriptor.",
            ),
            option(
                "--worker-connections-max",
                type=click.IntRange(1, 1_000_000),
                default=_WORKERS.connections_max,
                metavar="COUNT",
                help="The same of workers.",
            ),
            option(
                "--client-messages-max",
                type=click.IntRange(10, 10_000_000),
                default=int(_CLIENTS.messages_per_s),
                metavar="COUNT",
                help="Messages of one client connection a second; beyond them it is asked to wait.",
            ),
            option(
                "--client-bytes-max",
                type=click.IntRange(0, 10_000_000),
                default=_CLIENTS.bytes_per_min,
                metavar="MB",
                help="Megabytes that one client may send a minute. 0: no limit.",
            ),
            option(
                "--client-submissions-max",
                type=click.IntRange(1, 1_000_000),
                default=_CLIENTS.open_submissions_max,
                metavar="COUNT",
                help="Submissions of one client that are open, not committed, at once.",
            ),
            option(
                "--client-recipients-max",
                type=click.IntRange(0, 2**63 - 1),
                default=_CLIENTS.recipients_max,
                metavar="COUNT",
                help="Recipients of one client that wait to be sent; beyond them it is asked to wait. "
                "0: no limit.",
            ),
            option(
                "--memory-max",
                type=click.IntRange(0, 10_000_000),
                default=_DEFAULTS.memory_max_bytes // MIB,
                metavar="MB",
                help="Above so much memory of its own, the broker ends the connections that hold much of it "
                "unread. 0: never.",
            ),
        ]
    ):
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
