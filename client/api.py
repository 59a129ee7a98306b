"""`AsyncClient`: everything a client can ask of a broker, for asyncio."""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from client.addresses import AddressError, clean_address
from client.api_connection import Connection, Stream
from client.api_steering import Steering
from client.errors import BAD_INPUT, CLOSED, ClientError
from client.input_campaign import Campaign
from client.session import Timing
from client.submission_plan import Plan, ProgressCall, Receipt, new_submission_id
from evenpost import __version__
from evenpost.runtime.curve import CurvePeer, KeyFileError, Role, SecretKey
from evenpost.runtime.curve_files import read_broker_key, read_peer
from evenpost.wire import limits
from evenpost.wire.errors import Code
from evenpost.wire.messages import (
    CampaignStatus,
    Explain,
    Explanation,
    Hello,
    Message,
    MessageState,
    Report,
    ReportPage,
    ReportRow,
    Servers,
    ServersReply,
    Status,
    StatusReply,
    Trace,
    TracePage,
    Watch,
    WatchUpdate,
    Welcome,
    WorkerStatus,
)

DEFAULT_BROKER = "tcp://127.0.0.1:5550"
TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5.0
PAGE_ROWS = 2_000
"""Rows of a report asked for at once."""

M = TypeVar("M", bound=Message)
T = TypeVar("T")


class AsyncClient(Steering):
    """A client of one broker.

        async with AsyncClient("tcp://127.0.0.1:5550") as client:
            receipt = await client.submit(Campaign.load("campaign.toml"))
            final = await client.wait(receipt.campaign)
            print(final.counts)                     # {"sent": 4998, "bounced": 2}

    `broker` is the broker's endpoint for clients. Where it wants keys, `key` is ours (a .key file, or what
    `evenpost.runtime.curve_files.read_secret_key` gave) and `broker_key` the broker's public one (its .pub
    file, or the key itself). `timeout`: seconds without an answer after which the broker
    counts as unavailable; a restart of the broker within that time goes unnoticed. `connect_timeout`: the
    same for the first contact. Every verb can raise ClientError; its code is `unavailable` where nobody
    answered. Times in what comes back are milliseconds since the Unix epoch.
    """

    def __init__(
        self,
        broker: str = DEFAULT_BROKER,
        *,
        key: str | Path | SecretKey | None = None,
        broker_key: str | Path | None = None,
        timeout: float = TIMEOUT_S,  # the patience of all requests, not of one call
        connect_timeout: float = CONNECT_TIMEOUT_S,
    ) -> None:
        for name, seconds in (("timeout", timeout), ("connect_timeout", connect_timeout)):
            if not 0 < seconds < math.inf:  # false for nan, too
                raise ClientError(BAD_INPUT, f"{name} is a number of seconds above 0, not {seconds!r}")
        self.broker = broker
        self._curve = _curve(key, broker_key)
        self._timing = Timing(timeout_s=timeout)
        self._connect_timeout_s = min(connect_timeout, timeout)
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._welcome: Welcome | None = None

    async def __aenter__(self) -> Self:
        await self._connected()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; what was submitted goes on. Who still waits gets ClientError (`closed`)."""
        if self._connection is not None:
            self._connection.close()

    # --- submitting -----------------------------------------------------------------------------

    async def submit(
        self,
        campaign: Campaign,
        *,
        submission_id: str | None = None,
        skip_bad: bool = False,
        wait: bool = False,
        progress: ProgressCall | None = None,
    ) -> Receipt:
        """Checks a campaign, sends it to the broker, returns when the broker has all of it on disk.

        The whole list is checked before anything is sent; it is read twice and never held. A list in a file
        is read in a thread of its own, an iterable in this one. With the `submission_id` of an earlier call a
        campaign that was accepted isn't sent again, and one that was cut off goes on where it stopped.
        `skip_bad` leaves bad recipients out. `progress` is called with ("check", bytes read, bytes in all)
        and ("send", recipients stored, recipients in all). With `wait` it returns when each message has its
        outcome.

        Raises InputError where the campaign or its list is wrong, ClientError where the broker says no.
        """
        step = _in_thread if campaign.reads_file else _inline
        with await step(lambda: Plan(campaign, skip_bad=skip_bad, progress=progress)) as plan:
            await step(plan.check)
            stream = await self.open_stream(plan, submission_id)
            try:
                chunks = plan.chunks(stream, await self.welcome())
                while (rows := await step(lambda: next(chunks, None))) is not None:
                    await stream.put(rows)
                await stream.finish()
            except BaseException as error:
                await self.give_up(stream, error, keep=(submission_id or plan.submission_id) is not None)
                raise
            receipt = plan.receipt(stream)
        return receipt.ended(await self.wait(receipt.campaign)) if wait else receipt

    async def send(
        self,
        *,
        to: str,
        sender: str,
        subject: str,
        text: str | None = None,
        html: str | None = None,
        values: Mapping[str, Any] | None = None,
        priority: int = 9,
        submission_id: str | None = None,
        wait: bool = False,
        **campaign: Any,
    ) -> Receipt:
        """Sends one message, before all newsletters: a password reset, a receipt.

        `values` fill the merge fields. Other keywords are Campaign's (reply_to, headers, attachments, pool,
        expire_at, ...). Raises InputError and ClientError as `submit` does.
        """
        one = Campaign(
            sender=sender,
            subject=subject,
            text=text,
            html=html,
            priority=priority,
            recipients=[{**(values or {}), "email": to}],
            **campaign,
        )
        return await self.submit(one, submission_id=submission_id, wait=wait)

    # --- looking --------------------------------------------------------------------------------

    @overload
    async def status(self, campaign: str) -> CampaignStatus: ...
    @overload
    async def status(self, campaign: None = None, *, limit: int = 50) -> list[CampaignStatus]: ...
    async def status(
        self, campaign: str | None = None, *, limit: int = 50
    ) -> CampaignStatus | list[CampaignStatus]:
        """One campaign's state and counts, or the newest `limit` (1-1,000) campaigns.

        Raises ClientError (`not_found`) for a campaign that the broker doesn't know.
        """
        reply = await self._ask(Status(campaign, limit), StatusReply)
        if campaign is None:
            return reply.campaigns
        if not reply.campaigns:
            raise ClientError(Code.NOT_FOUND, f"no campaign {campaign!r}")
        return reply.campaigns[0]

    async def watch(
        self, campaign: str | None = None, *, interval: float = 0.5
    ) -> AsyncGenerator[WatchUpdate, None]:
        """What the campaign (or each running one) and the workers do, every `interval` (0.05-10) seconds.

        Ends with the campaign; without one, never. A broker's restart goes unnoticed but for the pause.
        Who takes updates slowly gets the newest. Raises ClientError.
        """
        connection = await self._connected()
        async with aclosing(connection.watch(Watch(campaign, interval))) as updates:
            async for update in updates:
                yield update
                if campaign is not None and any(
                    c.campaign == campaign and _over(c) for c in update.campaigns
                ):
                    return

    async def wait(self, campaign: str, *, interval: float = 0.5) -> CampaignStatus:
        """Returns the campaign's status when each of its messages has an outcome. Raises ClientError."""
        status = await self.status(campaign)
        if _over(status):
            return status
        async with aclosing(self.watch(campaign, interval=interval)) as updates:
            async for _ in updates:
                pass
        return await self.status(campaign)

    async def report(
        self, campaign: str, *, only: Iterable[MessageState] = ()
    ) -> AsyncGenerator[ReportRow, None]:
        """What became of each recipient, in the order of the list; of any length, held a page at a time.

        `only`: messages in these states. Raises ClientError.
        """
        async with aclosing(self.report_pages(campaign, only=only)) as pages:
            async for page in pages:
                for row in page:
                    yield row

    async def report_pages(
        self, campaign: str, *, only: Iterable[MessageState] = (), rows: int = PAGE_ROWS
    ) -> AsyncGenerator[list[ReportRow], None]:
        """The same in pages of at most `rows` (1-5,000) rows."""
        after: int | None = -1
        wanted = list(only)
        while after is not None:
            page = await self._ask(Report(campaign, after, rows, wanted), ReportPage)
            yield page.rows
            if page.next is not None and page.next <= after:
                raise ClientError(Code.BAD_MESSAGE, "the broker's report goes round in circles")
            after = page.next

    async def trace(self, address: str, *, limit: int = 1_000) -> list[ReportRow]:
        """Each message to an address, with all attempts, the newest first; at most `limit` (1-5,000)."""
        return (await self.trace_page(address, limit=limit)).rows

    async def trace_page(self, address: str, *, limit: int = 1_000) -> TracePage:
        """The same as `rows`, and how many campaigns can't be searched any more (`compacted`)."""
        if not 3 <= len(address.encode("utf-8", "replace")) <= limits.ADDRESS_BYTES_MAX:
            raise ClientError(BAD_INPUT, f"{address!r} is no address")
        with suppress(AddressError):  # an odd one is looked for as it is
            address = clean_address(address)  # as a list's addresses are: `bücher.example` is in Punycode
        return await self._ask(Trace(address, limit), TracePage)

    async def explain(
        self, campaign: str, index: int | None = None, *, address: str | None = None
    ) -> Explanation:
        """Why a campaign, or one message of it, went where it went, or why it waits.

        A message is named by its `index` in the list (from 0; ReportRow has it) or by its `address`. Raises
        ClientError (`not_found`) where there is no such campaign or message.
        """
        if address is not None:
            if index is not None:
                raise ClientError(BAD_INPUT, "a message is named by its index or by its address, not by both")
            index = await self._index_of(campaign, address)
        if index is not None and not 0 <= index <= limits.RECIPIENTS_MAX:
            raise ClientError(BAD_INPUT, f"{index} is no index: the first recipient's is 0")
        return await self._ask(Explain(campaign, index), Explanation)

    async def _index_of(self, campaign: str, address: str) -> int:
        for row in await self.trace(address, limit=limits.PAGE_ROWS_MAX):
            if row.campaign == campaign:
                return row.index
        status = await self.status(campaign)  # says so where there is no such campaign at all
        if status.compacted_at is not None:
            return 0  # nobody knows the index any more: about any, the broker says that, and since when
        raise ClientError(Code.NOT_FOUND, f"campaign {campaign} has no message to {address}")

    async def servers(self) -> list[WorkerStatus]:
        """All workers that the broker knows, each in front of one SMTP server."""
        return (await self._ask(Servers(), ServersReply)).workers

    # --- for the synchronous client and the command line ------------------------------------------

    async def open_stream(self, plan: Plan, submission_id: str | None) -> Stream:
        """Opens a checked campaign, or finds it. Raises ClientError."""
        welcome = await self.welcome()
        in_flight = min(max(1, welcome.chunks_in_flight_max), limits.CHUNKS_IN_FLIGHT_MAX)
        opening = plan.opening(submission_id or plan.submission_id or new_submission_id())
        stream = await (await self._connected()).open(opening, in_flight)
        plan.follow(stream)
        return stream

    async def give_up(self, stream: Stream, error: BaseException, *, keep: bool) -> None:
        """Ends a submission that failed. What the broker has of it is cancelled, unless `keep`."""
        stream.abandon(error if isinstance(error, ClientError) else ClientError(CLOSED, "given up"))
        if not keep and not isinstance(error, ClientError | asyncio.CancelledError):
            with suppress(ClientError):  # it was never committed: nothing of it is sent either way
                await self.cancel(stream.submission.campaign)

    async def welcome(self) -> Welcome:
        """What the broker said of itself and its limits."""
        await self._connected()
        assert self._welcome is not None
        return self._welcome

    async def _connected(self) -> Connection:
        async with self._connecting:
            if self._connection is None:
                connection = Connection(self.broker, self._timing, self._curve)
                try:
                    hello = Hello("evenpost-client", f"evenpost/{__version__}")
                    self._welcome = await connection.ask(hello, Welcome, timeout_s=self._connect_timeout_s)
                except BaseException:
                    connection.close()
                    raise
                self._connection = connection
        return self._connection

    async def _ask(self, message: Message, answer: type[M]) -> M:
        return await (await self._connected()).ask(message, answer)


def _curve(key: str | Path | SecretKey | None, broker_key: str | Path | None) -> CurvePeer | None:
    """Raises ClientError (`bad_input`)."""
    try:
        broker = None if broker_key is None else str(broker_key)
        if isinstance(key, SecretKey):
            if broker is None:
                raise KeyFileError("a key of ours without the broker's: give broker_key too")
            return CurvePeer(key, read_broker_key(broker))
        return read_peer(None if key is None else Path(key), broker, {Role.CLIENT, Role.ADMIN})
    except KeyFileError as error:
        raise ClientError(BAD_INPUT, str(error)) from None


def _over(campaign: CampaignStatus) -> bool:
    return campaign.state in ("finished", "cancelled")


async def _in_thread(call: Callable[[], T]) -> T:
    return await asyncio.to_thread(call)


async def _inline(call: Callable[[], T]) -> T:
    await asyncio.sleep(0)  # others get their turn between two chunks
    return call()
