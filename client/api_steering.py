"""What an asyncio client can tell a broker to do: with campaigns, and with workers."""

from collections.abc import Sequence
from typing import Literal, TypeVar

from client.errors import BAD_INPUT, ClientError
from evenpost.wire import limits
from evenpost.wire.messages import Cancel, Done, Message, Pause, Resume, RetryFailed, SetServer

RetryState = Literal["bounced", "expired", "held"]
M = TypeVar("M", bound=Message)

CONNECTIONS_MAX = 10_000
"""Of one worker, as SetServer bounds it."""


class Steering:
    """AsyncClient's verbs that change something. Each can raise ClientError: `not_found` where the broker
    knows no such campaign or worker, `wrong_state` where it is too late."""

    async def pause(self, campaign: str) -> None:
        """Sends nothing more of a campaign until `resume`; what is on the wire is finished."""
        await self._ask(Pause(campaign), Done)

    async def resume(self, campaign: str) -> None:
        """Takes a paused campaign up again."""
        await self._ask(Resume(campaign), Done)

    async def cancel(self, campaign: str) -> int:
        """Ends a campaign: what isn't sent yet is never sent. Returns how many messages that were."""
        return (await self._ask(Cancel(campaign), Done)).changed

    async def retry_failed(self, campaign: str, *, only: Sequence[RetryState] = ()) -> int:
        """Sends the failed messages of a campaign once more: bounced, expired and held ones, or `only` some
        of these. Returns how many."""
        return (await self._ask(RetryFailed(campaign, list(only)), Done)).changed

    async def drain(self, worker: str) -> None:
        """Gives a worker nothing more until `ready`, across restarts too; what it has, it finishes."""
        await self._ask(SetServer(_name(worker), state="drain"), Done)

    async def maint(self, worker: str) -> None:
        """Like `drain`, and calls back what the worker has but hasn't begun to send."""
        await self._ask(SetServer(_name(worker), state="maint"), Done)

    async def ready(self, worker: str) -> None:
        """Takes back `drain` and `maint`."""
        await self._ask(SetServer(_name(worker), state="ready"), Done)

    async def set_weight(self, worker: str, weight: int | None) -> None:
        """A worker's share of the load, 1 to 1,000, across restarts, instead of the one that it was started
        with. None takes it back."""
        share = _bounded("a weight", weight, limits.WEIGHT_MAX)
        await self._ask(SetServer(_name(worker), weight=share), Done)

    async def set_max_connections(self, worker: str, max_connections: int | None) -> None:
        """A worker's most connections, 1 to 10,000, across restarts; it never raises the worker's own. None
        takes it back."""
        most = _bounded("max_connections", max_connections, CONNECTIONS_MAX)
        await self._ask(SetServer(_name(worker), max_connections=most), Done)

    async def _ask(self, message: Message, answer: type[M]) -> M:
        raise NotImplementedError


def _name(worker: str) -> str:
    """As a worker's --name may be. Raises ClientError (`bad_input`)."""
    if not limits.is_name(worker):
        text = f"it has 1 to {limits.NAME_CHARS_MAX} printable characters; `evenpost servers` lists them"
        raise ClientError(BAD_INPUT, f"{worker!r} is no worker's name: {text}")
    return worker


def _bounded(what: str, number: int | None, most: int) -> int:
    """As the wire has it: 0 takes back. Raises ClientError (`bad_input`)."""
    if number is None:
        return 0
    if not 1 <= number <= most:
        hint = "`drain` gives a worker nothing" if number == 0 else "None takes it back"
        raise ClientError(BAD_INPUT, f"{what} is a whole number from 1 to {most:,}, not {number!r}; {hint}")
    return number
