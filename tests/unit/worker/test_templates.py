import asyncio
import threading
from typing import Any

import pytest

import worker.templates
from evenpost.compose import Composer, TemplateError, compile_template
from evenpost.wire.messages import CampaignTemplate, Template
from worker.templates import (
    QUICK_BYTES_MAX,
    RECENT_BYTES_MAX,
    RECENT_TEMPLATES_MAX,
    CampaignComposer,
    Templates,
)


def campaign(number: int, subject: str = "Hi") -> CampaignTemplate:
    return CampaignTemplate(
        number, f"c{number}", 1, Template(sender="a@b.example", subject=subject, text="x")
    )


def test_the_least_recently_used_goes_first() -> None:
    templates = Templates(kept_max=3)
    for number in (1, 2, 3):
        templates.put(campaign(number), 10)
    assert templates.use(1) is not None
    templates.put(campaign(4), 10)
    assert [number for number in range(1, 5) if templates.use(number)] == [1, 3, 4]


def test_bytes_are_bounded_and_one_always_stays() -> None:
    templates = Templates(bytes_max=100)
    for number in (1, 2, 3):
        templates.put(campaign(number), 40)
    assert [number for number in (1, 2, 3) if templates.use(number)] == [2, 3]
    templates.put(campaign(4), 500)
    assert [number for number in range(1, 5) if templates.use(number)] == [4]
    templates.put(campaign(5), 10)
    assert len(templates) == 1


def test_the_same_template_again_stays_compiled_and_another_takes_its_place() -> None:
    templates = Templates()
    templates.put(campaign(1), 10)
    first = templates.use(1)
    templates.put(campaign(1), 10)
    assert templates.use(1) is first
    templates.put(campaign(1, "Other"), 10)
    changed = templates.use(1)
    assert changed is not None
    assert changed.message.template.subject == "Other"
    assert len(templates) == 1


def test_it_is_compiled_once_and_so_is_its_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    templates = Templates()
    templates.put(campaign(1), 10)
    templates.put(campaign(2, "{{ broken"), 10)
    good, bad = templates.use(1), templates.use(2)
    assert good is not None
    assert bad is not None
    assert good.composer is good.composer
    with pytest.raises(TemplateError) as first:
        _ = bad.composer
    with pytest.raises(TemplateError) as second:
        _ = bad.composer
    assert first.value is second.value


def made_of(templates: Templates, message: CampaignTemplate, size_bytes: int = 100) -> Composer:
    templates.put(message, size_bytes)
    found = templates.use(message.campaign)
    assert found is not None
    return found.composer


def test_the_next_campaign_with_the_same_template_costs_no_compilation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[str] = []

    def counted(template: Template, **about: Any) -> Composer:
        compiled.append(about["campaign_id"])
        return compile_template(template, **about)

    monkeypatch.setattr(worker.templates, "compile_template", counted)
    templates = Templates()
    for number in (1, 2, 3):
        assert made_of(templates, campaign(number)).campaign_id == f"c{number}"
    assert compiled == ["c1"]
    made_of(templates, campaign(4, "Other"))
    assert compiled == ["c1", "c4"]
    for number in (5, 6):
        made_of(templates, campaign(number, "Large"), RECENT_BYTES_MAX + 1)
    assert compiled == ["c1", "c4", "c5", "c6"]
    for number in range(100, 101 + RECENT_TEMPLATES_MAX):
        made_of(templates, campaign(number, f"Number {number}"))
    del compiled[:]
    made_of(templates, campaign(7))
    assert compiled == ["c7"], "only so many are kept"


async def test_a_large_template_is_compiled_by_a_thread_once(monkeypatch: pytest.MonkeyPatch) -> None:
    composer, threads, may_go_on = compile_template, [], threading.Event()

    def compile_(*arguments: Any, **named: Any) -> Composer:
        threads.append(threading.current_thread())
        assert may_go_on.wait(20)
        return composer(*arguments, **named)

    monkeypatch.setattr("worker.templates.compile_template", compile_)
    large = CampaignComposer(campaign(1), QUICK_BYTES_MAX + 1)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        taken_back = group.create_task(large.compiled())
        waiting = [group.create_task(large.compiled()) for _ in range(2)]
        await asyncio.sleep(0)
        taken_back.cancel()  # its batch: the others wait for the same template
        await asyncio.sleep(0)
        assert not any(each.done() for each in waiting)
        may_go_on.set()
    assert not any(each.cancelled() for each in waiting)
    assert large.composer is large.composer
    await large.compiled()
    assert len(threads) == 1 and threads[0] is not threading.main_thread()


async def test_a_small_one_is_compiled_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.templates.CampaignComposer._compile_in_thread", None)
    small = CampaignComposer(campaign(1), QUICK_BYTES_MAX)
    await small.compiled()
    assert small.composer is small.composer


async def test_a_template_that_is_known_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    templates = Templates()
    for number in (1, 2):
        templates.put(campaign(number), QUICK_BYTES_MAX + 1)
    first, second = templates.use(1), templates.use(2)
    assert first is not None
    assert second is not None
    await first.compiled()
    monkeypatch.setattr("worker.templates.compile_template", None)
    await second.compiled()
    assert (first.composer.campaign_id, second.composer.campaign_id) == ("c1", "c2")


async def test_what_is_wrong_with_a_large_template_is_told_where_it_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = CampaignComposer(campaign(1, "{{ broken"), QUICK_BYTES_MAX + 1)
    await large.compiled()
    with pytest.raises(TemplateError):
        _ = large.composer
    monkeypatch.setattr("worker.templates.compile_template", lambda *_, **__: 1 / 0)
    faulty = CampaignComposer(campaign(2), QUICK_BYTES_MAX + 1)
    await faulty.compiled()
    with pytest.raises(ZeroDivisionError):  # BatchRun tells that it is a bug
        _ = faulty.composer
