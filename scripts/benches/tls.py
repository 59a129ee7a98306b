"""What TLS costs the worker: the same campaign to two servers, one with STARTTLS, in turn."""

import ssl
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from scripts.benches.paced_sink import PacedSink, paced_sinks
from scripts.benches.processes import Cluster, cluster, newsletter
from scripts.benches.table import Result
from scripts.benches.throughput import CONNECTIONS, send
from scripts.benches.usage import Cost, Spread
from tests.servers.certificates import Certificate, self_signed

PLAIN, TLS = "without TLS", "with STARTTLS"
_HANDSHAKES = 50


def measure(messages: int, rounds: int) -> Result:
    """The worker's CPU a message with STARTTLS, the certificate verified, and without TLS, alternating.

    Both servers are one program, a sink of ours that answers at once. 5 KB a message, 16 connections that
    are kept for 1,000 messages each: their handshakes are in the figures, and one alone is measured too. The
    certificate's key is of P-256, the session is what OpenSSL makes of it by default.
    """
    costs = {name: Cost(name) for name in (PLAIN, TLS)}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        certificate = self_signed(Path(folder))
        handshake_us, session = _handshake(certificate)
        verified = ("--tls", "required", "--ca-file", str(certificate.chain))
        made: dict[str, tuple[Cluster, PacedSink]] = {}
        for name, given, options in ((PLAIN, None, ("--tls", "none")), (TLS, certificate, verified)):
            (sink,) = stack.enter_context(paced_sinks([0.0], given))
            made[name] = stack.enter_context(cluster([sink.port], CONNECTIONS, worker_options=options)), sink
            send(made[name][0], newsletter(2_000))  # warm up: imports, connections, pace
        for _ in range(rounds):
            for name, (one, sink) in made.items():
                with costs[name].round(messages, one.pids | {"sink": sink.pid}):
                    send(one, newsletter(messages))
    pairs = list(zip(costs[TLS].cpu_us["worker"], costs[PLAIN].cpu_us["worker"], strict=True))
    ratio = Spread.of([tls / plain for tls, plain in pairs])
    added = Spread.of([tls - plain for tls, plain in pairs])
    workers = {name: Spread.of(cost.cpu_us["worker"]) for name, cost in costs.items()}
    return Result(
        "tls",
        ["worker, us of CPU a message", "median", "least", "most"],
        [
            *([name, spread.median, spread.least, spread.most] for name, spread in workers.items()),
            ["TLS adds, round by round", added.median, added.least, added.most],
        ],
        {
            "messages": messages,
            "rounds": rounds,
            "worker_us": {name: spread.median for name, spread in workers.items()},
            "added_us": added.median,
            "ratio": ratio.median,
            "handshake_us": handshake_us,
            "session": session,
        },
        [],
        [
            f"With TLS the worker needs {ratio} times as much.",
            f"One handshake ({session}) is {handshake_us:,.0f} us of the worker's CPU by itself.",
        ],
        list(costs.values()),
    )


def _handshake(certificate: Certificate) -> tuple[float, str]:
    """What a handshake costs a client, in us of CPU, and what was agreed on."""
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(certificate.chain, certificate.key)
    client_context = ssl.create_default_context(cafile=str(certificate.chain))
    times, session = [], ""
    for _ in range(_HANDSHAKES):
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = client_context.wrap_bio(to_client, to_server, server_hostname="localhost")
        server = server_context.wrap_bio(to_server, to_client, server_side=True)
        used, done = 0.0, {"client": False, "server": False}
        while not all(done.values()):
            began = time.thread_time()
            done["client"] = done["client"] or _step(client)
            used += time.thread_time() - began
            done["server"] = done["server"] or _step(server)
        times.append(used)
        cipher = client.cipher()
        session = f"{client.version()}, {cipher[0] if cipher else 'no cipher'}"
    return statistics.median(times) * 1e6, session


def _step(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
