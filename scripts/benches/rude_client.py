"""A client without manners: it sends recipients as fast as its socket takes them, and waits for nobody.

Runs as a program of its own (`python -m scripts.benches.rude_client ENDPOINT`). It keeps to no window, and
asks where to go on when something was refused, to send on from there at once. When its standard input closes
it takes in what has come, prints as JSON what was acknowledged and how much was refused, and ends.
"""

import json
import select
import subprocess
import sys
from dataclasses import asdict, dataclass

import click
import zmq

from evenpost.wire import codec
from evenpost.wire import messages as wire
from scripts.benches.processes import ROOT, newsletter

SUBMISSION = "rude"
CHUNK_ROWS = 5_000
UNSENT_MAX = 20
"""Chunks in its own socket's queue: its own memory isn't what is measured."""
_OPEN, _CHUNKS = 1, 2
"""Request numbers: of OPEN_CAMPAIGN, and the first of those of chunks."""


@dataclass
class Acknowledged:
    sent: int = 0
    """Chunks, given to the socket."""
    stored: int = 0
    """Chunks that RECIPIENTS_STORED, or CAMPAIGN_OPEN's next_chunk, said are on disk: all below this."""
    refused: int = 0


class _Rude:
    def __init__(self, endpoint: str) -> None:
        self.seen = Acknowledged()
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.SNDHWM, UNSENT_MAX)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(endpoint)
        self._opening = codec.encode(
            wire.OpenCampaign(SUBMISSION, newsletter(1).template(("first_name", "city", "token"))), _OPEN
        )
        values = codec.pack_values(["Anna000", "Hamburg", "000186a0"])
        self._rows = [[f"user{number}@example90.com", values] for number in range(CHUNK_ROWS)]
        self._campaign = ""
        self._next = 0
        self._asked = False

    def step(self) -> None:
        """Takes in what has come, and sends a chunk if there is room."""
        while self._socket.poll(0):
            self._receive()
        if not self._campaign and not self._asked:
            self._ask()
        elif self._campaign and not self._asked:
            body = {"campaign": self._campaign, "chunk": self._next, "rows": self._rows}
            self._send(codec.encode_raw(wire.Type.RECIPIENTS, body, _CHUNKS + self._next))
        else:
            self._socket.poll(10)

    def _send(self, frames: list[bytes]) -> None:
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            self._socket.poll(10, zmq.POLLIN | zmq.POLLOUT)
            return
        self._next += 1
        self.seen.sent += 1

    def _ask(self) -> None:
        self._socket.send_multipart(self._opening)
        self._asked = True

    def _receive(self) -> None:
        answer = codec.decode(self._socket.recv_multipart(), wire.TO_CLIENT)
        match answer.message:
            case wire.CampaignOpen(campaign=campaign, next_chunk=next_chunk):
                self._campaign, self._next, self._asked = campaign, next_chunk, False
                self.seen.stored = max(self.seen.stored, next_chunk)
            case wire.RecipientsStored(chunk=chunk):
                self.seen.stored = max(self.seen.stored, chunk + 1)
            case wire.Error():
                self.seen.refused += 1
                if answer.request == _OPEN or not self._asked:
                    self._ask()


class RudeClient:
    """The process, from outside."""

    def __init__(self, endpoint: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, endpoint],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def stop(self) -> Acknowledged:
        """What it was told until now."""
        out, _ = self._process.communicate()
        if not out:
            raise click.ClickException(f"the rude client ended with status {self._process.returncode}")
        return Acknowledged(**json.loads(out))


def _run(endpoint: str) -> None:
    rude = _Rude(endpoint)
    while not select.select([sys.stdin], [], [], 0)[0]:
        rude.step()
    print(json.dumps(asdict(rude.seen)))


if __name__ == "__main__":
    _run(sys.argv[1])
