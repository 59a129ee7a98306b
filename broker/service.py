"""The broker's process: the only place where core, sockets and journal meet.

One thread and one loop: take what came in, let the core decide, carry out its commands, let the journal write
and flush in groups. Only the flush itself is on another thread.
"""

import gc
import random
import secrets
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, assert_never

from broker.access import EXIT_OPEN, check_reach
from broker.admission import Admission
from broker.core.commands import (
    Command,
    Log,
    LookUp,
    Persist,
    Raise,
    ReadFresh,
    ReadHeld,
    ReadRetries,
    Reopen,
    Reply,
    ResolveMx,
    SendBatch,
    SendTemplate,
    ToWorker,
)
from broker.core.dispatcher import Dispatcher
from broker.core.events import (
    ClockSet,
    Event,
    FromClient,
    FromWorker,
    MxFound,
    SendFailed,
    Tick,
    WorkerRevoked,
)
from broker.disk_space import DiskSpace, Room
from broker.endpoints import Endpoints
from broker.gate import Gate
from broker.journal.answers import answer
from broker.journal.group_commit import GroupCommit
from broker.journal.sqlite import SqliteJournal
from broker.journal.store import JournalError
from broker.memory import MemoryWatch
from broker.mx_wanted import mx_lookups
from broker.opening import Opening
from broker.questions import Questions
from broker.reopening import Reopening
from broker.settings import Settings
from broker.upkeep import Upkeep
from broker.wakeup import Wakeup
from evenpost import __version__
from evenpost.runtime import logs
from evenpost.runtime.clock import now
from evenpost.runtime.clock_log import follow_clock
from evenpost.runtime.curve import PublicKey
from evenpost.runtime.sockets import EndpointError
from evenpost.runtime.startup import ENDINGS, release_signals
from evenpost.wire import codec
from evenpost.wire import messages as wire
from evenpost.wire.errors import Code

TICK_S = 0.1
CLIENTS_REST_S = 0.002
"""While mail is going out, clients are listened to at most so often: 200 requests in one turn of the loop
cost less than three in a turn each."""
CONNECTIONS_EVERY_S = 0.02
"""Connections that come and go are looked at so often at most, and nobody is woken for them: strangers that
knock and leave cost a turn of the loop each otherwise."""
INTAKE = frozenset({wire.Type.OPEN_CAMPAIGN, wire.Type.RECIPIENTS, wire.Type.COMMIT})
"""What clients ask for that brings mail. Everything else is done aside while mail is going out."""


class Broker:
    def __init__(self, settings: Settings) -> None:
        """Opens the journal and binds both sockets. Raises JournalError, EndpointError or ResolverError."""
        self._log = logs.get()
        insecure = check_reach(settings.access, settings.clients, settings.workers)
        if insecure:
            self._log = self._log.bind(insecure=True)
        self._log_started = self._log.warning if insecure else self._log.info
        self._journal = self._open_journal(settings.journal)
        self._wakeup = Wakeup()
        try:
            self._endpoints = Endpoints(
                settings, self._log, self._wakeup, self._open_gate, client_left=self._client_left
            )
        except EndpointError:
            self._journal.close()
            raise
        self._access = self._endpoints.access
        self._client_gate, self._worker_gate = self._endpoints.client_gate, self._endpoints.worker_gate
        self._memory = MemoryWatch(settings.memory_max_bytes, (self._client_gate, self._worker_gate))
        self._queue = GroupCommit(self._journal, self._wakeup.wake)
        self._name = secrets.token_hex(4)
        self._core = Dispatcher(
            settings.core,
            boot=self._journal.boot,
            broker=self._name,
            uniform=random.SystemRandom().uniform,
            campaigns=self._journal.campaigns(),
            workers=self._journal.workers(),
            quotas=self._journal.quotas(),
            batches=self._journal.batches(),
            now=now(),
        )
        self._opening = Opening(self._journal, self._queue, self._handle)
        self._questions = Questions(
            self._core, self._journal, self._queue, self._client_gate.guard, self._reply
        )
        self._admission = Admission(self._client_gate.guard, self._core.state, self._queue)
        self._mx = mx_lookups(settings, self._wakeup.wake, self._mx_found)
        self._stopping = 0
        self._hung_up = False
        self._disk = DiskSpace(settings.journal, settings.disk_reserve, self._log)
        self._settings = settings
        self._upkeep = Upkeep(settings, self._journal, self._queue, self._wakeup.wake)

    def _open_journal(self, path: Path) -> SqliteJournal:
        return SqliteJournal(path)

    def _open_gate(self, *given: Any, **options: Any) -> Gate:
        return Gate(*given, **options)

    # --- the loop -----------------------------------------------------------------------------

    def run(self) -> int:
        """Serves until SIGTERM or SIGINT. The exit status: 0, or 1 where the journal failed."""
        for number in ENDINGS:
            signal.signal(number, self._signalled)
        signal.signal(signal.SIGHUP, self._reload_asked)
        self._wakeup.by_signals(True)
        # What lives now lives on, and most of what comes dies by its reference count: look for cycles seldom.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        state = self._core.state
        clients, workers = self._endpoints.names()
        if not self._access.prove(clients, workers):
            self._endpoints.close()
            self._journal.close()
            return EXIT_OPEN
        self._log_started(
            "broker.started",
            version=__version__,
            clients=clients,
            workers=workers,
            journal=str(self._settings.journal),
            campaigns=len(state.campaigns),
            known_workers=len(state.workers),
        )
        release_signals()
        try:
            self._loop()
            self._queue.finish()
        except JournalError as error:
            # Nothing that isn't on disk was promised to anyone, and nothing more goes out.
            self._log.critical("journal.failed", error=str(error))
            return 1
        finally:
            self._upkeep.close(now())
            self._wakeup.by_signals(False)
            self._endpoints.close(linger_ms=500)
        self._journal.close()
        self._log.info("broker.stopped")
        return 0

    def _loop(self) -> None:
        endpoints = self._endpoints
        next_tick = connections_at = 0.0
        turned_at = now().mono
        heartbeat_s = self._settings.core.heartbeat_s
        while not self._stopping:
            time = now()
            halted = self._core.state.halted
            next_at = next_tick if halted else min(next_tick, self._core.next_at())
            ready = endpoints.wait(min(next_at, time.mono + self._queue.wait_s(time.mono)), time.mono)
            if self._wakeup.fileno() in ready:
                self._wakeup.drain()
            if self._hung_up:
                self._hung_up = False
                self._reload()
            self._queue.step(now().mono)
            if self._mx is not None:
                self._mx.step()
            time = now()
            if time.mono - turned_at > heartbeat_s:
                # This process was frozen, its workers weren't: hear what they said before judging them.
                next_tick = time.mono + heartbeat_s
            turned_at = time.mono
            if time.mono >= connections_at:
                connections_at = time.mono + CONNECTIONS_EVERY_S
                self._worker_gate.events()
                self._client_gate.events()
            if endpoints.workers in ready:
                self._worker_gate.receive(self._from_worker)
            if endpoints.clients in ready:
                rest_s = CLIENTS_REST_S if self._core.state.batches else 0.0
                self._client_gate.receive(self._from_client, rest_s)
            time = now()
            if time.mono >= next_tick:
                next_tick = time.mono + TICK_S
                self._disk.look()
                self._core.state.halted = self._disk.halted
                if followed_s := follow_clock():
                    self._handle(ClockSet(followed_s))
                    time = now()
                self._handle(Tick())
                self._questions.tick(time)
                self._upkeep.tick(time)
                self._admission.tick(time.mono)
                self._memory.step(time.mono)
                self._execute(endpoints.rejections.due(time.mono))
            if not self._core.state.halted:
                self._execute(self._core.dispatch(time))
            self._queue.step(time.mono)

    def _mx_found(self, domain: str, exchanger: str) -> None:
        self._handle(MxFound(domain, exchanger))

    def _signalled(self, number: int, _: Any) -> None:
        self._stopping += 1
        if self._stopping > 1:
            raise KeyboardInterrupt
        self._log.info("broker.stopping", signal=signal.Signals(number).name)

    def _reload_asked(self, _: int, __: Any) -> None:
        self._hung_up = True

    def _reload(self) -> None:
        revoked = self._access.reload()
        for worker in revoked.workers:
            self._handle(WorkerRevoked(worker))
        self._questions.revoke(revoked.keys)

    # --- what comes in ------------------------------------------------------------------------

    def _from_worker(self, peer: bytes, frames: list[bytes], who: PublicKey) -> bool:
        envelope = codec.decode(frames, wire.FROM_WORKER)
        known = self._core.state.by_peer.get(peer)
        self._access.check_worker(who, envelope.message, known.name if known else None)
        self._handle(FromWorker(peer, envelope.request, envelope.message))
        is_hello = isinstance(envelope.message, wire.WorkerHello)
        if is_hello and (registered := self._core.state.by_peer.get(peer)):
            self._access.registered(registered.name, who)
        return known is not None or is_hello

    def _from_client(self, peer: bytes, frames: list[bytes], who: PublicKey) -> bool:
        envelope = codec.decode(frames, wire.FROM_CLIENT)
        request, message = envelope.request, envelope.message
        self._access.check_client(who, message)

        def answer(reply: wire.Message) -> None:
            self._reply(peer, request, reply)

        if refusal := self._admission.refusal(peer, request, message, sum(map(len, frames))):
            answer(wire.Error(Code.BUSY, refusal))
            return False
        match message:
            case wire.Hello():
                answer(wire.Welcome(self._name, __version__))
            case wire.OpenCampaign() | wire.Recipients() | wire.RetryFailed() if self._disk.room < Room.ALL:
                answer(wire.Error(Code.BUSY, self._disk.refusal))
            case wire.OpenCampaign():
                self._opening.open(peer, request, message)
            case (
                wire.Status() | wire.Watch() | wire.Report() | wire.Trace() | wire.Servers() | wire.Explain()
            ):
                self._questions.ask(peer, request, message, answer, who.key)
            case wire.Cancel() if message.campaign not in self._core.state.by_id:
                otherwise = partial(self._handle, FromClient(peer, request, message))
                self._questions.cancelled_before(peer, request, message.campaign, answer, otherwise)
            case _:
                self._handle(FromClient(peer, request, message))
        return message.TYPE in INTAKE or not self._core.state.batches

    def _client_left(self, peer: bytes) -> None:
        self._questions.forget(peer)

    # --- what the core wants done -------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        self._execute(self._core.handle(event, now()))

    def _execute(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case SendBatch():
                    self._send_batch(command)
                case Persist():
                    self._persist(command)
                case ToWorker():
                    frames = codec.encode(command.message, command.request)
                    self._worker_gate.send(command.peer, frames)
                case Reply():
                    self._reply(command.peer, command.request, command.message)
                case Log():
                    getattr(self._log, command.level)(command.event, **command.fields)
                case ReadFresh() | ReadRetries() | ReadHeld() | LookUp():
                    self._queue.read(partial(answer, command, self._journal), self._handle)
                case SendTemplate():
                    self._send_template(command)
                case Raise(event):
                    self._handle(event)
                case Reopen():
                    self._reopen(command)
                case ResolveMx(domain):
                    assert self._mx is not None, "a group by mail exchanger is in the settings"
                    self._mx.ask(domain)
                case _:
                    assert_never(command)

    def _persist(self, command: Persist) -> None:
        done = partial(self._execute, command.then)
        self._queue.write(command.changes, done, wait_s=command.may_wait_s)

    def _reply(self, peer: bytes, request: int, message: wire.Message) -> None:
        self._admission.answered(peer, request, message)
        if isinstance(message, wire.Error) and message.code == Code.BUSY:
            self._client_gate.note(message.code, message.message)
        if not self._client_gate.send(peer, codec.encode(message, request)):
            self._questions.forget(peer)

    def _send_batch(self, command: SendBatch) -> None:
        body = {"batch": command.batch, "campaign": command.campaign, "items": command.items}
        if not self._worker_gate.send(command.peer, codec.encode_raw(wire.Type.BATCH, body)):
            self._handle(SendFailed(command.peer, command.batch))

    def _send_template(self, command: SendTemplate) -> None:
        campaign = command.campaign
        template = codec.unpack_struct(campaign.template, wire.Template)
        message = wire.CampaignTemplate(campaign.number, campaign.id, campaign.created_at, template)
        self._worker_gate.send(command.peer, codec.encode(message))

    def _reopen(self, command: Reopen) -> None:
        Reopening(command, self._journal, self._queue, self._handle, lambda: now().wall).start()
