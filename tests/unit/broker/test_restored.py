"""Campaigns that came out of a backup: the core sends nothing of them before a person says so."""

from broker.core import commands as c
from broker.core import events as e
from broker.core.dispatcher import Dispatcher
from broker.core.explain import reasons, waiting_for
from broker.core.settings import Settings
from broker.core.state import Campaign, Phase
from evenpost.runtime.clock import Now
from evenpost.wire import messages as wire

WALL = 1_790_000_000_000
NOW = Now(10.0, WALL)


def core_with(phase: Phase) -> tuple[Dispatcher, Campaign]:
    campaign = Campaign(7, "c7", "s7", b"T", b"F", wire.Options(), WALL, WALL + 10**9, phase=phase)
    campaign.chunks, campaign.total, campaign.restored = 1, 3, True
    core = Dispatcher(
        Settings(), boot=1, broker="b", uniform=lambda a, b: b, campaigns=[campaign], workers=[], now=NOW
    )
    return core, core.state.by_id["c7"]


def says(core: Dispatcher, message: wire.Message) -> list[c.SetCampaign]:
    """What is written of the campaign when a client says this."""
    commands = core.handle(e.FromClient(b"k", 1, message), NOW)
    written = [change for command in commands if isinstance(command, c.Persist) for change in command.changes]
    return [change for change in written if isinstance(change, c.SetCampaign)]


def test_one_that_was_still_coming_in_is_paused_when_it_is_whole() -> None:
    """It may have been whole before the journal was lost, and sent."""
    core, campaign = core_with(Phase.OPEN)
    (written,) = says(core, wire.Commit("c7", 1, 3))
    assert (written.phase, written.restored) == (Phase.PAUSED, True)
    assert campaign.phase is Phase.PAUSED and campaign.marks is not None


def test_it_says_why_it_is_paused_until_somebody_resumes_it() -> None:
    core, campaign = core_with(Phase.PAUSED)
    campaign.stored = True
    assert "it came out of a backup" in waiting_for(core.state, core.balancer, campaign, NOW)
    assert "it came out of a backup" in reasons(core.state, core.balancer, campaign, NOW)[0].text
    (written,) = says(core, wire.Resume("c7"))
    assert (written.phase, written.restored) == (Phase.ACTIVE, False)
    (written,) = says(core, wire.Pause("c7"))
    assert (written.phase, written.restored) == (Phase.PAUSED, False)
    assert waiting_for(core.state, core.balancer, campaign, NOW) == ""
