"""Look-ups of mail exchangers, against a name server on the loopback."""

import socket
import threading
from collections.abc import Iterator

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from broker import mx
from broker.mx import MxLookups, ResolverError, parse_resolver

DEADLINE_S = 10


class NameServer:
    """Answers MX questions by a table; one that isn't in it never."""

    def __init__(self) -> None:
        self.zone: dict[str, tuple[int, list[str]]] = {}
        self.rcodes: dict[str, dns.rcode.Rcode] = {}
        self.asked: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while wire := self._socket.recvfrom(4096):
            data, peer = wire
            if data == b"stop":
                return
            question = dns.message.from_wire(data)
            domain = question.question[0].name.to_text(omit_final_dot=True)
            self.asked.append(domain)
            reply = dns.message.make_response(question)
            reply.flags |= dns.flags.RA
            if domain in self.rcodes:
                reply.set_rcode(self.rcodes[domain])
            elif domain in self.zone:
                ttl, rows = self.zone[domain]
                if rows:
                    reply.answer.append(dns.rrset.from_text(domain + ".", ttl, "IN", "MX", *rows))
            else:
                continue
            self._socket.sendto(reply.to_wire(), peer)

    def stop(self) -> None:
        self._socket.sendto(b"stop", self._socket.getsockname())
        self._thread.join(DEADLINE_S)
        self._socket.close()


class Asking:
    """The broker's side."""

    def __init__(self, server: NameServer, timeout_s: float = 5.0) -> None:
        self.woken = threading.Event()
        self.time = 0.0
        self.found: list[tuple[str, str]] = []
        self.lookups = MxLookups(
            self.woken.set,
            lambda domain, exchanger: self.found.append((domain, exchanger)),
            resolver=server.address,
            timeout_s=timeout_s,
            clock=lambda: self.time,
        )

    def ask(self, *domains: str) -> list[tuple[str, str]]:
        self.found.clear()
        for domain in domains:
            self.lookups.ask(domain)
        assert not self.found, "nothing is found before the loop's turn"
        while len(self.found) < len(domains):
            assert self.woken.wait(DEADLINE_S), f"only {self.found} of {domains}"
            self.woken.clear()
            self.lookups.step()
        self.lookups.step()
        return sorted(self.found)


@pytest.fixture
def server() -> Iterator[NameServer]:
    it = NameServer()
    yield it
    it.stop()


@pytest.fixture
def asking(server: NameServer) -> Iterator[Asking]:
    it = Asking(server)
    yield it
    it.lookups.close()


def test_the_best_exchanger_is_found_once_each(server: NameServer, asking: Asking) -> None:
    server.zone = {
        "a.example": (300, ["20 backup.example.", "10 MX.Provider.example."]),
        "b.example": (300, ["10 z.example.", "10 y.example."]),
    }
    assert asking.ask("a.example", "b.example", "a.example") == [
        ("a.example", "mx.provider.example"),
        ("a.example", "mx.provider.example"),
        ("b.example", "y.example"),
    ]
    assert sorted(server.asked) == ["a.example", "b.example"], "asked twice at once, looked up once"


def test_answers_are_kept_for_their_time(server: NameServer, asking: Asking) -> None:
    server.zone = {"a.example": (600, ["10 one.example."]), "brief.example": (1, ["10 x.example."])}
    asking.ask("a.example", "brief.example")
    server.zone["a.example"] = (600, ["10 two.example."])
    asking.time = 59
    assert asking.ask("a.example", "brief.example") == [
        ("a.example", "one.example"),
        ("brief.example", "x.example"),
    ]
    assert len(server.asked) == 2
    asking.time = 61
    asking.ask("brief.example")
    assert len(server.asked) == 3
    asking.time = 601
    assert asking.ask("a.example") == [("a.example", "two.example")]


def test_a_domain_without_an_exchanger(server: NameServer, asking: Asking) -> None:
    server.zone = {"null.example": (600, ["0 ."]), "web.example": (600, [])}
    server.rcodes = {"none.example": dns.rcode.NXDOMAIN, "ill.example": dns.rcode.SERVFAIL}
    domains = ["ill.example", "none.example", "null.example", "web.example"]
    assert asking.ask(*domains) == [(domain, "") for domain in domains]
    asked = len(server.asked)
    asking.time = 29
    asking.ask(*domains)
    assert len(server.asked) == asked
    asking.time = 31
    asking.ask(*domains)
    assert set(server.asked[asked:]) == {"ill.example"}, "a failure is forgotten sooner than a no"


def test_what_is_no_domain_has_no_exchanger(asking: Asking) -> None:
    domains = sorted(["", "a..example", "x" * 64 + ".example", ".".join(["x" * 60] * 5), "\udcff.example"])
    assert asking.ask(*domains) == [(domain, "") for domain in domains]


def test_a_server_that_doesn_t_answer_is_given_up(server: NameServer) -> None:
    asking = Asking(server, timeout_s=0.05)
    assert asking.ask("silent.example", "silent2.example") == [
        ("silent.example", ""),
        ("silent2.example", ""),
    ]
    asking.lookups.close()


def test_many_at_once_by_a_few_threads(server: NameServer, asking: Asking) -> None:
    domains = sorted(f"d{n}.example" for n in range(300))
    server.zone = {domain: (600, [f"10 mx.{domain}."]) for domain in domains}
    before = threading.active_count()
    assert asking.ask(*domains) == [(domain, f"mx.{domain}") for domain in domains]
    assert threading.active_count() - before <= mx.THREADS_MAX


def test_the_cache_is_bounded(server: NameServer, asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "CACHED_MAX", 2)
    server.zone = {f"{name}.example": (600, ["10 m.example."]) for name in "abc"}
    for name in "abac":
        asking.ask(f"{name}.example")
    server.asked.clear()
    asking.ask("a.example")
    assert server.asked == [], "it was used after b"
    asking.ask("b.example")
    assert server.asked == ["b.example"]


def test_the_threads_end(server: NameServer) -> None:
    asking = Asking(server)
    server.zone = {"a.example": (600, ["10 m.example."])}
    asking.ask("a.example")
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("mx-")]
    assert threads
    asking.lookups.close()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1", ("127.0.0.1", 53)),
        ("127.0.0.1:5353", ("127.0.0.1", 5353)),
        ("::1", ("::1", 53)),
        ("[::1]", ("::1", 53)),
        ("[::1]:5353", ("::1", 5353)),
    ],
)
def test_where_the_name_server_is(text: str, address: tuple[str, int]) -> None:
    assert parse_resolver(text) == address


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no IP address. Write it like 127.0.0.1:53"),
        ("dns.example", "is no IP address"),
        ("127.0.0.1:0", "port must be 1 to 65535"),
        ("127.0.0.1:99999", "port must be 1 to 65535"),
        ("127.0.0.1:", "port must be 1 to 65535"),
        ("[::1]x", "port must be 1 to 65535"),
        ("[::1", "is no IP address"),
        ("127.0.0.1:²", "port must be 1 to 65535"),
    ],
)
def test_where_it_can_t_be(text: str, said: str) -> None:
    with pytest.raises(ResolverError) as caught:
        parse_resolver(text)
    assert said in str(caught.value)


def test_a_system_without_a_name_server_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise mx.dns.resolver.NoResolverConfiguration("no nameservers")

    monkeypatch.setattr(mx.dns.resolver, "Resolver", none)
    with pytest.raises(ResolverError, match="--dns-resolver"):
        MxLookups(lambda: None, lambda domain, exchanger: None)
