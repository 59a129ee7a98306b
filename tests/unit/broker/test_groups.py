"""Domains: groups with limits, and the spreading of all others."""

from broker.core.groups import Group, Groups, domain_of, spread
from broker.core.message_state import Message
from broker.core.settings import DomainGroup


def messages(*addresses: str) -> list[Message]:
    return [Message(n, address, b"", 0) for n, address in enumerate(addresses)]


def test_a_sorted_list_is_spread_evenly() -> None:
    sorted_list = messages(*(f"{n}@a.example" for n in range(60)), *(f"{n}@b.example" for n in range(30)))
    domains = [domain_of(m.address) for m in spread(sorted_list)]
    assert len(domains) == 90
    for start in range(81):
        assert 5 <= domains[start : start + 9].count("a.example") <= 7


def test_a_rare_domain_comes_in_the_middle_and_each_domain_keeps_its_order() -> None:
    mixed = messages("1@rare.example", *(f"{n}@a.example" for n in range(9)))
    found = spread(mixed)
    assert domain_of(found[4].address) == "rare.example" or domain_of(found[5].address) == "rare.example"
    ids = [m.id for m in found if domain_of(m.address) == "a.example"]
    assert ids == sorted(ids)


def test_one_domain_is_left_as_it_is() -> None:
    same = messages("a@x.example", "b@X.example", "c@x.example")
    assert list(spread(same)) == same


def test_groups_by_name_and_by_mail_exchanger() -> None:
    groups = Groups()
    google = Group(DomainGroup("google", frozenset({"gmail.com"}), mx=("google.com", ".googlemail.com")))
    groups.add(google)
    assert groups.by_domain["gmail.com"] is google
    assert not groups.is_unknown("gmail.com")
    assert groups.is_unknown("example.org")
    assert groups.resolved("example.org", "aspmx.l.GOOGLE.com.") is google
    assert not groups.is_unknown("example.org")
    assert groups.resolved("example.net", "mx.notgoogle.com") is None
    assert groups.resolved("example.com", "") is None
    assert not groups.is_unknown("example.com")


def test_without_mx_nothing_is_looked_up() -> None:
    groups = Groups()
    groups.add(Group(DomainGroup("g", frozenset({"gmail.com"}))))
    assert not groups.is_unknown("example.org")


def test_full_is_full() -> None:
    group = Group(DomainGroup("g", connections=2))
    assert not group.is_full
    group.in_flight = 2
    assert group.is_full
    assert not Group(DomainGroup("h"), in_flight=100).is_full
