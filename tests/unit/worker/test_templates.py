from typing import Any

import pytest

import worker.templates
from evenpost.compose import Composer, TemplateError, compile_template
from evenpost.wire.messages import CampaignTemplate, Template
from worker.templates import RECENT_BYTES_MAX, RECENT_TEMPLATES_MAX, Templates


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
