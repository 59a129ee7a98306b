"""Mail exchangers of recipient domains, for grouping domains by the provider behind them.

Look-ups run in a few threads; answers are handed out on the broker's loop, each question's exactly once.
"""

import ipaddress
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import dns.exception
import dns.name
import dns.rdatatype
import dns.resolver

THREADS_MAX = 8
"""Look-ups at the same time: a name server on the same network answers thousands a second with that."""
TIMEOUT_S = 3.0
"""For one look-up with all its retries: mail waits for it."""
CACHED_MAX = 50_000
"""Domains whose answer is kept: about 10 MB."""
TTL_MIN_S = 60.0
"""The provider behind a domain doesn't change by the minute, whatever its TTL says."""
TTL_MAX_S = 86_400.0
NEGATIVE_TTL_S = 600.0
"""For a domain without an exchanger."""
FAILED_TTL_S = 30.0
"""For a look-up that failed: the name server may be back soon."""


class ResolverError(ValueError):
    """No name server can be asked; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Answer:
    exchanger: str
    """The best one's name, in lower case without the last dot; empty where there is none."""
    ttl_s: float


def parse_resolver(text: str) -> tuple[str, int]:
    """The address and port of HOST[:PORT]; an IPv6 address with a port stands in brackets. Raises
    ResolverError."""
    host, port = text, "53"
    if text.startswith("[") and "]" in text:
        host, _, rest = text[1:].partition("]")
        port = rest[1:] if rest.startswith(":") else "" if rest else "53"
    elif text.count(":") == 1:
        host, port = text.split(":")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ResolverError(
            f"the name server {text!r} is no IP address. Write it like 127.0.0.1:53 or [::1]:53"
        ) from None
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65_535):
        raise ResolverError(f"the name server {text!r}: its port must be 1 to 65535, like 127.0.0.1:53")
    return host, int(port)


class MxLookups:
    def __init__(
        self,
        wake: Callable[[], None],
        found: Callable[[str, str], None],
        *,
        resolver: str = "",
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`wake`: called from any thread when `step` has something to do. `found`: called by `step` with a
        domain and the name of its best mail exchanger, or an empty one. `resolver`: the name server
        (parse_resolver), else the system's. Raises ResolverError."""
        self._wake = wake
        self._found = found
        self._clock = clock
        try:
            self._resolver = dns.resolver.Resolver(configure=not resolver)
        except (dns.resolver.NoResolverConfiguration, OSError) as error:
            raise ResolverError(
                f"the system names no name server ({error}): give one with --dns-resolver HOST[:PORT]"
            ) from None
        if resolver:
            host, self._resolver.port = parse_resolver(resolver)
            self._resolver.nameservers = [host]
        self._resolver.lifetime = timeout_s
        self._resolver.timeout = timeout_s / 2
        self._cache: OrderedDict[str, tuple[str, float]] = OrderedDict()
        """Exchanger, and until when it is known; the least recently used first."""
        self._asked: dict[str, int] = {}
        """Domains being looked up, and how often each was asked for."""
        self._known: list[tuple[str, str]] = []
        """Answers from the cache, which nobody has been told yet."""
        self._questions: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[str, Answer]] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def ask(self, domain: str) -> None:
        """`found` will be called for it once, by `step`."""
        known = self._cache.get(domain)
        if known is not None and self._clock() < known[1]:
            self._cache.move_to_end(domain)
            self._known.append((domain, known[0]))
            self._wake()
            return
        if domain in self._asked:
            self._asked[domain] += 1
            return
        self._asked[domain] = 1
        if len(self._threads) < min(THREADS_MAX, len(self._asked)):
            # Daemons: no look-up that hangs may keep the broker from stopping.
            thread = threading.Thread(target=self._work, name=f"mx-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._questions.put(domain)

    def step(self) -> None:
        """Hands out what is known by now. To be called on the broker's loop."""
        known, self._known = self._known, []
        for domain, exchanger in known:
            self._found(domain, exchanger)
        for _ in range(self._answers.qsize()):
            domain, answer = self._answers.get()
            self._cache[domain] = (answer.exchanger, self._clock() + answer.ttl_s)
            self._cache.move_to_end(domain)
            if len(self._cache) > CACHED_MAX:
                self._cache.popitem(last=False)
            for _ in range(self._asked.pop(domain)):
                self._found(domain, answer.exchanger)

    def close(self) -> None:
        """Ends the threads, once each has ended its look-up. Nothing more is found."""
        for _ in self._threads:
            self._questions.put(None)
        self._threads.clear()

    def _work(self) -> None:
        while (domain := self._questions.get()) is not None:
            self._answers.put((domain, self._look_up(domain)))
            self._wake()

    def _look_up(self, domain: str) -> Answer:
        """Never raises: what fails has no exchanger, for a while."""
        try:
            name = dns.name.from_text(domain)
            if name == dns.name.root:
                return Answer("", NEGATIVE_TTL_S)
            answer = self._resolver.resolve(name, dns.rdatatype.MX, search=False)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return Answer("", NEGATIVE_TTL_S)
        except (dns.exception.DNSException, OSError, UnicodeError):
            return Answer("", FAILED_TTL_S)
        rows = [(row.preference, row.exchange.to_text(omit_final_dot=True).lower()) for row in answer]
        # RFC 7505: a lone dot says that the domain takes no mail.
        best = min(rows)[1] if rows else "."
        ttl_s = min(max(answer.rrset.ttl if answer.rrset is not None else 0.0, TTL_MIN_S), TTL_MAX_S)
        return Answer("" if best == "." else best, ttl_s)
