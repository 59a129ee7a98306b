"""A dispatcher to play events to, with the shells' answers given at once unless a test holds them back."""

from dataclasses import dataclass, field
from typing import TypeVar

from broker.core import commands as c
from broker.core import events as e
from broker.core.dispatcher import Dispatcher
from broker.core.invariants import violations
from broker.core.message_state import Stored
from broker.core.settings import Settings
from evenpost.runtime.clock import Now
from evenpost.wire import messages as wire

T = TypeVar("T")
WALL = 1_790_000_000_000


@dataclass
class Playbook:
    """`say` an event, get the commands; `commits` and fresh reads are answered as the service would."""

    settings: Settings = field(default_factory=Settings)
    mono: float = 10.0
    core: Dispatcher = field(init=False)
    seen: list[c.Command] = field(default_factory=list)
    stored: dict[int, list[tuple[int, str, bytes, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.core = Dispatcher(
            self.settings, boot=1, broker="b", uniform=lambda a, b: b, campaigns=[], workers=[], now=self.now
        )
        self.say(e.Tick())

    @property
    def now(self) -> Now:
        return Now(self.mono, WALL + int(self.mono * 1000))

    def say(self, event: e.Event) -> list[c.Command]:
        """All commands that follow, the dispatch after it included, in order."""
        before = len(self.seen)
        self._carry_out(self.core.handle(event, self.now))
        self._carry_out(self.core.dispatch(self.now))
        wrong = violations(self.core.state)
        assert not wrong, wrong
        return self.seen[before:]

    def _carry_out(self, commands: object) -> None:
        for command in commands:  # type: ignore[attr-defined]  # a list or a tuple of commands
            self.seen.append(command)
            match command:
                case c.Persist(changes, then):
                    for change in changes:
                        if isinstance(change, c.AddRecipients):
                            rows = self.stored.setdefault(change.campaign, [])
                            first = (change.campaign << 32) + change.first_index
                            rows.extend(
                                (first + n, r.address, r.values, 0) for n, r in enumerate(change.rows)
                            )
                    self._carry_out(then)
                case c.Raise(event):
                    self._carry_out(self.core.handle(event, self.now))
                case c.ReadFresh():
                    pages, uptos = [], []
                    for after, upto in command.ranges:
                        rows = [r for r in self.stored[command.campaign] if after < r[0] < upto]
                        page, rest = rows[: command.limit], rows[command.limit :]
                        pages.append(page)
                        uptos.append(page[-1][0] if rest else upto - 1)
                    read = e.FreshRead(command.campaign, pages, uptos)
                    self._carry_out(self.core.handle(read, self.now))
                    self._carry_out(self.core.dispatch(self.now))

    # --- what peers say ------------------------------------------------------------------

    def hello(self, name: str, *, peer: str = "", **fields: object) -> list[c.Command]:
        given: dict[str, object] = {"incarnation": 1, "log": f"log-{name}", "max_connections": 2} | fields
        message = wire.WorkerHello(worker=name, server=f"{name}:25", **given)  # type: ignore[arg-type]  # a test's own
        return self.say(e.FromWorker((peer or name).encode(), 7, message))

    def submit(
        self, recipients: int, options: wire.Options | None = None, id_: str = "c1", number: int = 1
    ) -> list[c.Command]:
        return self.submit_to([f"u{n}@example.com" for n in range(recipients)], options, id_, number)

    def submit_to(
        self, addresses: list[str], options: wire.Options | None = None, id_: str = "c1", number: int = 1
    ) -> list[c.Command]:
        out = self.open(options or wire.Options(), id_, number)
        rows = [wire.Recipient(address) for address in addresses]
        out += self.say(e.FromClient(b"client", 2, wire.Recipients(id_, 0, rows)))
        return out + self.say(e.FromClient(b"client", 3, wire.Commit(id_, 1, len(rows))))

    def open(self, options: wire.Options, id_: str = "c1", number: int = 1) -> list[c.Command]:
        template = wire.Template("a@example.com", "s", text="t")
        opened = wire.OpenCampaign(f"sub-{id_}", template, options)
        return self.say(e.SubmissionOpened(b"client", 1, opened, b"T" * 10, b"F", None, id_, number))

    def outcomes(
        self, batch: c.SendBatch, kind: str, *, done: bool = True, first: int = 0, **fields: object
    ) -> list[c.Command]:
        given: dict[str, object] = {
            "scope": "recipient", "code": 250, "reply": "ok", "began_at": WALL, "ended_at": WALL + 10,
        }  # fmt: skip
        rows = [
            wire.Outcome(
                batch=batch.batch,
                campaign=batch.campaign,
                index=index,
                attempt=attempt,
                kind=kind,  # type: ignore[arg-type]  # a test's choice
                **(given | fields),  # type: ignore[arg-type]  # a test's own
            )
            for index, attempt, _, _ in batch.items
        ]
        report = wire.Outcomes(first, rows, [batch.batch] if done else [])
        return self.say(e.FromWorker(batch.peer, 0, report))

    def pass_time(self, seconds: float) -> list[c.Command]:
        self.mono += seconds
        return self.say(e.Tick())


def only(commands: list[c.Command], type_: type[T]) -> list[T]:
    return [command for command in commands if isinstance(command, type_)]


def rows(commands: list[c.Command]) -> list[tuple[object, ...]]:
    """What was written of messages."""
    changes = [change for p in only(commands, c.Persist) for change in p.changes]
    found: list[tuple[object, ...]] = []
    for change in changes:
        if isinstance(change, c.SetMessages):
            found.extend(change.rows)
        elif isinstance(change, c.SetSent):
            found.extend((id_, Stored.SENT, *rest, None, None) for id_, *rest in change.rows)
    return found


def answers(commands: list[c.Command]) -> list[wire.Message]:
    return [reply.message for reply in only(commands, c.Reply)]
