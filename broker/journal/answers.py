"""The core's questions to the journal, and the events that answer them."""

from broker.core.commands import LookUp, ReadFresh, ReadHeld, ReadRetries
from broker.core.events import Event, FreshRead, HeldRead, LookedUp, RetriesRead
from broker.core.message_state import message_id
from broker.journal.store import Journal


def answer(command: ReadFresh | ReadRetries | ReadHeld | LookUp, journal: Journal) -> Event:
    """What the journal has to say to the command, as of now."""
    match command:
        case ReadFresh(campaign, ranges, limit):
            rows = [journal.fresh(after, upto, limit) for after, upto in ranges]
            read = [
                part[-1][0] if len(part) == limit else upto - 1
                for part, (_, upto) in zip(rows, ranges, strict=True)
            ]
            return FreshRead(campaign, rows, read)
        case ReadRetries(campaign, after, due_upto, limit):
            return RetriesRead(campaign, *journal.retries(campaign, after, due_upto, limit))
        case ReadHeld(worker, peer, hello, batches):
            ids = [message_id(held.campaign, index) for held in batches for index in held.indices]
            return HeldRead(worker, peer, hello, batches, journal.stored(ids))
        case LookUp(worker, outcomes, peer, upto):
            numbers = {outcome.campaign for outcome in outcomes}
            found = {number: journal.campaign_by_number(number) for number in numbers}
            campaigns = {number: campaign for number, campaign in found.items() if campaign is not None}
            ids = list({message_id(outcome.campaign, outcome.index) for outcome in outcomes})
            return LookedUp(worker, outcomes, journal.stored(ids), campaigns, peer, upto)
