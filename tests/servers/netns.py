"""Hosts on wires that a test may cut: network namespaces, joined by pairs of virtual Ethernet cards.

    with Network("broker", "worker", "smtp") as network:
        wire = network.join("broker", "worker")
        subprocess.Popen([*network.on("worker"), "ping", wire.address["broker"]])
        wire.down()

Each network has names of its own and is gone when its context ends; nothing outside it is touched. It takes
root, `ip`, and for `drop` nft.
"""

import itertools
import os
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from tests.servers.packages import SCRIPT, program

_numbers = itertools.count()
TIMEOUT_S = 10.0


def missing() -> str | None:
    """Why there can be no network here and what to do about it; None where there can."""
    for name, package in (("ip", "iproute2"), ("nft", "nftables"), ("ss", "iproute2")):
        if program(name) is None:
            return f"{name} is missing: apt-get install {package}, or run {SCRIPT}"
    if os.geteuid() != 0:
        return "network namespaces are root's: run this test as root"
    tried = f"evenpost-try-{os.getpid()}-{next(_numbers)}"
    made = subprocess.run(["ip", "netns", "add", tried], capture_output=True, text=True, timeout=TIMEOUT_S)
    if made.returncode:
        return f"this system makes no network namespaces (a container without CAP_SYS_ADMIN?): {made.stderr}"
    _run("ip", "netns", "delete", tried)
    return None


def require() -> None:
    """Skips the test, and says what it takes, where there can be no network."""
    if reason := missing():
        import pytest

        pytest.skip(reason)


class Wire:
    """Two hosts with a cable between them."""

    def __init__(self, network: "Network", number: int, one: str, other: str) -> None:
        self._network = network
        self._cards = {one: f"to-{other}"[:15], other: f"to-{one}"[:15]}
        self.address = {one: f"10.77.{number}.1", other: f"10.77.{number}.2"}
        """Of each host on this wire."""
        pair = ["ip", "link", "add", self._cards[one], "netns", network.namespaces[one], "type", "veth"]
        _run(*pair, "peer", "name", self._cards[other], "netns", network.namespaces[other])
        for host, address in self.address.items():
            network.run(host, "ip", "address", "add", f"{address}/24", "dev", self._cards[host])
            network.run(host, "ip", "link", "set", self._cards[host], "up")

    def down(self) -> None:
        """Pulls the cable."""
        host = next(iter(self._cards))
        self._network.run(host, "ip", "link", "set", self._cards[host], "down")

    def up(self) -> None:
        host = next(iter(self._cards))
        self._network.run(host, "ip", "link", "set", self._cards[host], "up")

    def drop(self, *, to: str) -> None:
        """Loses silently what goes to this host; the other direction works."""
        self._filter(to, "")

    def drop_connections(self, *, to: str, port: int) -> None:
        """Forgets the connections to this host and port that are open now, as a firewall does that restarts:
        nothing of them arrives any more, at either end, and nobody is told. New ones work."""
        other = next(host for host in self.address if host != to)
        listed = self._network.run(other, "ss", "-Htn", "state", "established", "dport", "=", f":{port}")
        ports = [line.split()[2].rpartition(":")[2] for line in listed.splitlines()]
        assert ports, "no connection to forget"
        self._filter(to, f"tcp sport {{ {', '.join(ports)} }}")
        self._filter(other, f"tcp dport {{ {', '.join(ports)} }}")

    def pass_all(self) -> None:
        """Ends every `drop`."""
        for host in self._cards:
            self._network.run(host, "nft", "flush", "ruleset")

    def _filter(self, host: str, what: str) -> None:
        chain = "{ type filter hook input priority 0; }"
        rule = f'iifname "{self._cards[host]}" {what} drop'
        nft = f"add table ip cut\nadd chain ip cut input {chain}\nadd rule ip cut input {rule}\n"
        self._network.run(host, "nft", "-f", "-", given=nft)


class Network:
    """Hosts, each with a loopback of its own."""

    def __init__(self, *hosts: str) -> None:
        tag = f"evenpost-{os.getpid()}-{next(_numbers)}"
        self.namespaces = {host: f"{tag}-{host}" for host in hosts}
        self._wires = 0

    def __enter__(self) -> Self:
        try:
            for host, namespace in self.namespaces.items():
                _run("ip", "netns", "add", namespace)
                self.run(host, "ip", "link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Whatever still runs on its hosts goes on, with nobody to talk to."""
        for namespace in self.namespaces.values():
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, timeout=TIMEOUT_S)

    def join(self, one: str, other: str) -> Wire:
        self._wires += 1
        return Wire(self, self._wires, one, other)

    def on(self, host: str) -> list[str]:
        """What a command begins with that runs on this host. The process is the command's own."""
        return ["ip", "netns", "exec", self.namespaces[host]]

    def run(self, host: str, *command: str, given: str = "") -> str:
        return _run(*self.on(host), *command, given=given)


def _run(*command: str, given: str = "") -> str:
    ran: subprocess.CompletedProcess[str] = subprocess.run(
        _found(command), input=given, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command)}: {ran.stderr.strip()}")
    return ran.stdout


def _found(command: Sequence[str]) -> list[str]:
    return [str(program(command[0]) or command[0]), *command[1:]]
