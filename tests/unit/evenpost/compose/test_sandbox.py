"""A template can't get at the process, nor stop it."""

import time

import pytest

from evenpost.compose import ComposeError, TemplateError

ESCAPES = [
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
    with pytest.raises((ComposeError, TemplateError)):
        make(**{part: source}, fields=["items"]).compose(0, "a@b.c", [[1, 2]], 0)
    assert time.monotonic() - began < 3


def test_each_message_has_its_own_steps(make):
    composer = make(text="{% for i in range(90000) %}{% endfor %}x")
    for index in range(4):
        assert b"\r\nx\r\n" in composer.compose(index, "a@b.c", [], 0)


def test_formats_that_are_fine(make):
    composer = make(
        text="{{ '%05.2f € 1000000' % 3.14159 }} {{ '{:>8} 1234567'.format('x') }} {{ '%s'|format(1) }}"
    )
    assert b"03.14" in composer.compose(0, "a@b.c", [], 0)
