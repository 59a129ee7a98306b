import time

import pytest
from jinja2 import Environment

from evenpost.compose.text import html_to_text, template_to_text


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>One</p><p>Two<br>three</p>", "One\n\nTwo\nthree\n"),
        ("  <b>a</b>  b\n c&nbsp;d &lt;e&gt; &eacute;", "a b c d <e> é\n"),
        ("<style>x{}</style><head><title>t</title></head><script>1</script>a", "a\n"),
        ("<div style='display: none'>secret<br><p>more</p></div>shown", "shown\n"),
        ("<a href='https://x.y/'>Site</a>, <a href='https://x.y/'>https://x.y/</a>",
         "Site (https://x.y/), https://x.y/\n"),
        ("<a href='mailto:a@b.c'>a@b.c</a> <a href='#t'>up</a> <a href='https://z'><img alt=''></a>",
         "a@b.c up https://z\n"),
        ("<ul><li>a</li><li>b<ol><li>c<li>d</ol></li></ul>", "* a\n* b\n  1. c\n  2. d\n"),
        ("<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>x", "a  b\n1  2\n\nx\n"),
        ("<h1>Big</h1>text<hr>end", "Big\n\ntext\n\n" + "-" * 40 + "\n\nend\n"),
        ("<pre>a\n  b</pre>", "a\n  b\n"),
        ("<img src=x alt='Logo'> <q>said</q><!-- no -->", 'Logo "said"\n'),
        ("<p>open <b>never closed", "open never closed\n"),
        ("1 < 2 <3 a<", "1 < 2 <3 a<\n"),
        ("shown <b never closed", "shown\n"),
        ("shown <!-- never <p>closed", "shown\n"),
        ("<![if !mso]>a<![endif]> <![x[y]>b <![CDATA[c]]>d", "a b d\n"),
        ("<a href='https://x'>one <a href='https://y'>two</a>", "one (https://x) two (https://y)\n"),
        ("&#" + "1" * 5_000 + "; &#" + "0" * 5_000 + "65; &#x" + "f" * 5_000 + ";", "\ufffd A \ufffd\n"),
        ("<ol start=" + "1" * 5_000 + "><li>a", "1. a\n"),
        ("", "\n"),
    ],
)  # fmt: skip
def test_html_to_text(html, text):
    assert html_to_text(html) == text


@pytest.mark.parametrize(
    "html",
    [
        "<!--" * 250_000,
        "<a " * 250_000,
        "<a x=\"y='" * 100_000,
        "<p hidden>" * 40_000 + "</b>" * 40_000,
        "<ul>" * 40_000 + "<li>" * 40_000,
    ],
)
def test_a_megabyte_takes_seconds_whatever_it_is(html):
    """Each took minutes or hours: its time grew with the square of its length."""
    began = time.monotonic()
    html_to_text(html)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>Hi {{ name }}!</p>", "Hi Ada!\n"),
        ("<ul>{% for i in items %}<li>{{ i }}</li>{% endfor %}</ul><p>x</p>", "* 1\n* 2\n\nx\n"),
        ("{% if name %}<p>yes</p>{% else %}<p>no</p>{% endif %}<p>x</p>", "yes\n\nx\n"),
        ("<a href='{{ url }}?a=1&amp;b={{ name }}'>{{ name }}</a>", "Ada (https://x?a=1&b=Ada)\n"),
        ("{# no #}{% raw %}{{ <b>raw</b> }}{% endraw %}", "{{ raw }}\n"),
        ("&#123;&#123; x }} {<b>{{ name }}</b>} {%- if name %} y{% endif %}", "{{ x }} {Ada} y\n"),
        ("{% if 1 < 2 and '<p>' %}a{% endif %}", "a\n"),
    ],
)
def test_templates_stay_templates(html, text):
    environment = Environment(keep_trailing_newline=True)
    source = template_to_text(html, environment)
    rendered = environment.from_string(source).render(name="Ada", items=[1, 2], url="https://x")
    assert rendered == text
