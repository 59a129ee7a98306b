"""A template can't get at the process, nor stop it."""

import functools
import itertools
import time

import pytest
from jinja2.defaults import DEFAULT_FILTERS, DEFAULT_TESTS

from evenpost.compose import ComposeError, TemplateError, growth
from evenpost.compose.sandbox import Sandbox

ESCAPES = [
    "{{ '{0.__class__.__mro__}'.format(()) }}",  # CVE-2016-10745
    "{{ '{x.__class__.__mro__}'.format_map({'x': ()}) }}",  # CVE-2019-10906
    "{% include '{% print(1) %}' %}",  # CVE-2024-56201: a template's name that the compiler writes out
    "{% set ns = namespace(f='{0.__class__}'.format) %}{{ ns.f(1) }}",  # CVE-2024-56326
    "{{ '{0.__class__}'|attr('format')|attr('__call__')(1) }}",
    "{{ ''|attr('\\x5f\\x5fclass\\x5f\\x5f') }}{{ ''|attr('__cla' ~ 'ss__') }}",
    "{{ ''['__cla' ~ 'ss__'] }}",
    "{{ [('', 1)]|map(attribute='0.__class__')|first }}",
    "{{ (['']|groupby('__class__'))[0].grouper }}",
    "{{ ['']|selectattr('__class__')|list }}",
    "{{ ['']|sort(attribute='__class__') }}{{ ''|attr('__doc__') }}",
    "{{ (items|map('attr', '__class__')|list)[0].mro() }}",
    "{{ dict.__subclasses__() }}",
    "{{ dict.mro() }}",
    "{{ namespace.__class__ }}",
    "{{ cycler('a').__class__.__init__.__globals__ }}",
    "{{ joiner().__init__.__globals__ }}",
    "{% for i in items recursive %}{{ loop.__class__ }}{{ loop._recurse.__globals__ }}{% endfor %}",
    "{% for i in items %}{{ loop._iterator.gi_frame.f_globals }}{% endfor %}",
    "{{ (items|map('string')).gi_frame.f_globals }}",
    "{{ ''.join.__func__ }}{{ ''.upper.__self__.__class__ }}",
    "{% macro m() %}{{ caller.__globals__ }}{% endmacro %}{% call m() %}{% endcall %}",
    "{{ self.__dict__ }}",
    "{{ self.environment }}",
    "{% import 'os' as os %}{{ os.system('id') }}",
    "{% from 'x' import y %}",
    "{% extends 'x' %}",
    "{{ get_flashed_messages.__globals__ }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ ''['__class__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ ('{0.__class__}'|attr('format'))(1) }}",  # CVE-2025-27516
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "{% set f = '{0.__class__}'.format %}{{ [1]|map(f)|list }}{{ f(1) }}",  # CVE-2024-56326
    "{{ (['{0.__class__}']|map('attr', 'format')|first)(1) }}",
    "{{ email.__init__.__globals__ }}",
    "{{ range.__globals__ }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{% macro m() %}{% endmacro %}{{ m.__init__ }}{{ m._func.__globals__ }}",
    "{{ items.append(1) }}",
    "{{ items.clear() }}",
    "{{ data.update({}) }}",
    "{{ (1).__class__ }}{{ 'a'.encode().__class__ }}",
    "{{ ''.join.__self__.__class__ }}",
    "{{ lipsum() }}",
    "{{ items|random }}",
]

TEXT = "{% set b = 'x' * 999999 %}"
LIST = "{% set b = (range(99999)|list) * 9 %}"
BOMBS = [
    "{{ 'a' * 10**9 }}",
    "{{ 10**9 * 'a' }}",
    "{{ [1] * 10**9 }}",
    "{{ 9**(9**9) }}",
    "{{ 2 ** 100000 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%1000000000d'|format(1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 1000000000) }}",
    "{{ ['{:1000000000}']|map('attr', 'format')|first }}",
    "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "{{ (1).to_bytes(1000000000, 'big') }}",
    "{{ 1.5|round(10**9, 'ceil') }}",
    "{{ [1]|tojson(indent=10**9) }}",
    "{{ ('x ' * 50000)|wordwrap(1, wrapstring='y' * 50000) }}",
    "{{ 'x'|center(10**9) }}",
    "{{ 'x'.ljust(10**9) }}",
    "{{ '1'.zfill(10**9) }}",
    "{{ 'x\n'|indent(10**9) }}",
    "{{ [1]|batch(10**9, 'x')|list }}",
    "{{ (range(50000)|list)|join('x' * 50000) }}",
    "{{ ('x' * 50000).join(range(50000)|map('string')|list) }}",
    "{{ ('x' * 50000)|replace('x', 'y' * 50000) }}",
    "{{ ('x' * 50000).replace('x', 'y' * 50000) }}",
    "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
    "{% for a in range(90000) %}{{ 'xxxxxxxxx' * 100 }}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "{% set n = namespace(s='x') %}{% for i in range(60) %}"
    "{% set n.s %}{{ n.s }}{{ n.s }}{% endset %}{% endfor %}",
    "{% for i in range(10**9) %}{% endfor %}",
    # No loop and no call, but as many filters as a source holds.
    "{{ 'x'|center(1000000) }}" * 50,
    # Work that no loop round shows.
    "{% for i in range(90000) %}{{ range(99999)|sum }}{% endfor %}",
    "{% for i in range(90000) %}{{ range(99999)|map('string')|map('upper')|list|length }}{% endfor %}",
    "{% set b = 'x' * 999999 %}{% for i in range(90000) %}{% if b|upper %}{% endif %}{% endfor %}",
    "{% set b = 'x' * 999999 %}{% for i in range(90000) %}{% if b.count('y') %}{% endif %}{% endfor %}",
    "{% set b = (range(99999)|list) * 9 %}{% for i in range(90000) %}{% if -1 in b %}{% endif %}{% endfor %}",
    "{% set b = (range(99999)|list) * 9 %}{% set c = b[:] %}"
    "{% for i in range(90000) %}{% if b == c %}{% endif %}{% endfor %}",
    LIST + "{% for i in range(90000) %}{% if b[1:] %}{% endif %}{% endfor %}",
    LIST + "{% for i in range(90000) %}{% if b is eq(b[:]) %}{% endif %}{% endfor %}",
    LIST + "{% for i in range(90000) %}{% if b.index(1.5) %}{% endif %}{% endfor %}",
    "{{ ('<!-->' * 190000)|striptags }}",
    "{{ ('a.b ' * 200000)|urlize }}",
    "{{ (range(99999)|batch(1)|list)|sum(start=[]) }}",
    "{{ range(99999)|batch(1)|sum(start=[]) }}",
    # Texts that are in a list a million times.
    "{{ ['x' * 1000000] * 1000000 }}",
    "{{ (['x' * 1000000] * 1000000)|join }}",
    "{{ (['x' * 1000000] * 1000000)|string }}",
    "{{ (['x' * 1000000] * 1000000)|tojson }}",
    "{{ '' ~ (['x' * 1000000] * 1000000) }}",
    "{{ '%s' % [['x' * 1000000] * 1000000] }}",
    "{{ '{}'.format(['x' * 1000000] * 1000000) }}",
    "{{ (['x' * 1000000] * 1000000)|sort }}",
    "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}",
    # What is captured isn't output yet.
    TEXT + "{% macro m() %}{% for i in range(90000) %}{{ b }}{% endfor %}{% endmacro %}{{ m() }}",
    "{% macro m() %}{% for i in range(90000) %}" + "x" * 50_000 + "{% endfor %}{% endmacro %}{{ m() }}",
    "{% set b = 'x' * 999999 %}{% set s %}{% for i in range(90000) %}{{ b }}{% endfor %}{% endset %}",
    TEXT + "{% filter upper %}{% for i in range(90000) %}{{ b }}{% endfor %}{% endfilter %}",
    # The hash of this ends a process without a word.
    "{% set n = namespace(t=()) %}{% for i in range(90000) %}{% set n.t = (n.t,) %}{% endfor %}"
    "{{ {n.t: 1} }}",
    "{% set n = namespace(t=range(9)) %}{% for i in range(90000) %}{% set n.t = n.t|map('int') %}{% endfor %}"
    "{{ n.t|list }}",
    # One value that many fields name; many wide fields.
    "{{ ('{0}' * 9000).format('a' * 1000000) }}",
    "{{ ('{0.real:>99999}' * 9000).format(1) }}",
    "{{ ('{x[a]}' * 9000).format(x={'a': 'a' * 999000}) }}",
    "{{ ('%(x)s' * 9000) % {'x': 'a' * 999000} }}",
    "{{ ('%(x)s' * 9000)|format(x='a' * 1000000) }}",
    # Methods whose arguments don't show what they come to.
    "{{ ('a' * 100000).translate({97: 'b' * 100000}) }}",
    "{{ ('\t' * 100000).expandtabs(100000) }}",
    "{{ ('a' * 100000).encode().replace(''.encode(), ('b' * 100000).encode()) }}",
    "{{ [1, [2] * 90000]|tojson(indent=90000) }}",
    "{{ [1, [2] * 90000]|tojson('x' * 90000) }}",
    "{{ ('http://a.b ' * 9000)|urlize(target='x' * 100000) }}",
    # Searches that take the product of both texts.
    "{{ ('a' * 999000).encode().decode('punycode') }}",
    "{{ ('a' * 999000).rfind('ab' ~ 'a' * 400000) }}",
    "{{ ('a' * 999000).rsplit('ab' ~ 'a' * 400000) }}",
    "{{ ('a' * 999000).encode().rindex(('ab' ~ 'a' * 400000).encode()) }}",
    "{{ ('a' * 999000).strip('b' * 400000 ~ 'a') }}",
    "{{ ('a' * 999000)|trim('b' * 400000 ~ 'a') }}",
    "{% set x = 'a' * 999000 %}{% set y = 'a' * 998999 ~ 'b' %}{{ ([x] * 999000).count(y) }}",
    # Numbers without end.
    "{{ (('f' * 999000)|int(base=16)) // (('f' * 499000)|int(base=16)) }}",
    "{{ 0x" + "f" * 9000 + " is divisibleby 0x" + "f" * 4500 + " }}",
    # Keys that all have the same hash.
    "{{ [" + ",".join(str((2**61 - 1) * i) for i in range(2000)) + "]|unique|list }}",
    "{{ {" + ",".join(f"{(2**61 - 1) * i}:1" for i in range(2000)) + "}|length }}",
    "{{ dict([" + ",".join(f"({(2**61 - 1) * i},1)" for i in range(2000)) + "])|length }}",
    "{{ dict.fromkeys([" + ",".join(str((2**61 - 1) * i) for i in range(2000)) + "])|length }}",
    "{{ dict(range(90000)|batch(2)) }}",
    # More than can be compiled in a few seconds.
    "{{ [" + "[1]," * 100_000 + "] }}",
    "{% if a is defined %}" + "{{ a.b.c.d.e.f.g.h }}" * 9_000 + "{% endif %}",
    "{{ 1 // 0 }}",
    "{{ items.x.y }}",
    "{{ 'a' + 1 }}",
]  # fmt: skip


@pytest.mark.parametrize("source", ESCAPES)
@pytest.mark.parametrize("part", ["text", "html", "subject"])
def test_no_way_out(make, source, part):
    with pytest.raises((ComposeError, TemplateError)):
        composer = make(**{part: source}, fields=["items", "data"])
        composer.compose(0, "a@b.c", [[1, 2], {"a": 1}], 0)


@pytest.mark.parametrize("source", BOMBS)
@pytest.mark.parametrize("part", ["text", "subject"])
def test_no_end(make, source, part):
    began = time.monotonic()
    with pytest.raises((ComposeError, TemplateError)) as caught:
        make(**{part: source}, fields=["items"]).compose(0, "a@b.c", [[1, 2]], 0)
    assert time.monotonic() - began < 10, "a minute, if nothing stopped it; now some tenths of a second"
    assert not isinstance(caught.value.__cause__, MemoryError)


@pytest.mark.parametrize(
    "header",
    [
        {"reply_to": "{{" * 200_000}, {"reply_to": "{%" * 200_000}, {"reply_to": '"\\' * 200_000},
        {"reply_to": "a@b.c," * 200_000}, {"reply_to": "a" + " " * 400_000 + "b"},
        {"headers": [("Sender", "{{" * 200_000)]},
        {"sender": "{% if name %}{{ name }}{% endif %}"},
    ],
    ids=itertools.count(),
)  # fmt: skip
def test_addresses_are_told_apart_in_time(make, header):
    """Each took minutes, the last by what a recipient's name is."""
    began = time.monotonic()
    with pytest.raises((ComposeError, TemplateError)):
        make(text="x", fields=["name"], **header).compose(0, "a@b.c", ["a" + " " * 60_000 + "b"], 0)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("name", sorted(set(growth.FILTER_CHECKS) - {"batch", "slice"}))
def test_a_list_is_weighed_before_a_filter_turns_it_into_text(make, monkeypatch, name):
    """`trim` wrote a list of 10^9 items out to see how long it was. (`batch` and `slice` look at nothing.)"""
    looked_at = []
    monkeypatch.setitem(growth.FILTER_CHECKS, name, lambda value, *_, **__: looked_at.append(value))
    nested = functools.reduce(lambda inner, _: [inner], range(101), "x")
    with pytest.raises(ComposeError, match="lists in lists"):
        make(text=f"{{{{ name|{name}('a', 'b') }}}}", fields=["name"]).compose(0, "a@b.c", [nested], 0)
    assert not looked_at


def test_a_slow_step_is_stopped_by_the_clock(make, monkeypatch):
    """Whatever the steps misjudge: the processor's time is the last word."""
    now = iter(range(1_000_000))
    monkeypatch.setattr(time, "thread_time", lambda: next(now))
    with pytest.raises(ComposeError, match="more than 1 s of computing in one message"):
        make(text="{% for i in range(90000) %}{% endfor %}x").compose(0, "a@b.c", [], 0)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(1000) %}{{ items|join(', ') }}{% if 2 in items %}{{ i }}{% endif %}{% endfor %}",
        "{% set n = namespace(s=[]) %}{% for i in range(500) %}{% set n.s = n.s + [i] %}{% endfor %}"
        "{{ n.s }}",
        "{% macro row(x) %}<td>{{ x }}</td>{% endmacro %}{% for i in range(2000) %}{{ row(i) }}{% endfor %}",
        "{{ [[1], [2, 3]]|sum(start=[]) }}{{ items|sort|map('string')|list }}{{ data|dictsort }}",
        "{{ items[1:] }}{{ 'a' ~ items ~ 1.5 }}{{ items == [1, 2] }}{{ 1 in items }}{{ data.a is eq 1 }}",
        "{% filter upper %}{% for i in items %}{{ i }}x{% endfor %}{% endfilter %}{{ missing|default('') }}",
        "{{ ('word ' * 2000)|truncate(30) }}{{ ('word ' * 2000)|wordwrap(60) }}",
        "{{ '{0} and {0}, 50000 {x!r:>40}'.format('a' * 20000, x=1.5) }}{{ '%(x)s %(x)s' % {'x': 7} }}",
        "{{ 'a\tb'.expandtabs(4) }}{{ ' a '|trim }}{{ 'a-b-c'.rsplit('-', 1)[0] }}{{ 'aab'.strip('ab') }}",
        "{{ 'é'.encode('utf-8').decode() }}{{ data|tojson(indent=2) }}{{ [2, 1, 2]|unique|list }}",
        "{{ 12345678|tojson }}{{ 12345678|round(1) }}{{ [1, 2, 3]|batch(2, 0)|list }}",
        "{{ 'see www.example.com'|urlize(40, target='_blank') }}{{ dict(a=1).a }}{{ 7 // 2 / 3 % 2 }}",
    ],
)
def test_what_people_write_stays_within_it(make, source):
    for part in ("text", "html"):
        composer = make(**{part: source}, fields=["items", "data"])
        for index in range(3):
            assert composer.compose(index, "a@b.c", [[1, 2], {"a": 1}], 0)


def test_each_message_has_its_own_steps(make):
    composer = make(text="{% for i in range(90000) %}{% endfor %}x")
    for index in range(4):
        assert b"\r\nx\r\n" in composer.compose(index, "a@b.c", [], 0)


def test_formats_that_are_fine(make):
    composer = make(
        text="{{ '%05.2f € 1000000' % 3.14159 }} {{ '{:>8} 1234567'.format('x') }} {{ '%s'|format(1) }}"
    )
    assert b"03.14" in composer.compose(0, "a@b.c", [], 0)


@pytest.mark.parametrize("derived", [False, True])
def test_each_filter_and_test_is_charged_however_it_is_asked_for(derived):
    for named, plain in (("filters", DEFAULT_FILTERS), ("tests", DEFAULT_TESTS)):
        for name in sorted(plain.keys() - {"random"}):
            by_get, by_key = (getattr(Sandbox(derived=derived), named) for _ in range(2))
            assert name in by_get
            found = by_get.get(name)
            assert found.__wrapped__ is not None
            assert found is by_get[name]
            assert by_key[name].__wrapped__ == found.__wrapped__


def test_what_is_no_filter_is_none():
    filters = Sandbox().filters
    for name in ("random", "nothing"):
        assert name not in filters
        assert filters.get(name) is None
        with pytest.raises(KeyError):
            filters[name]
