"""The newsletter, for the contestants in Python: the same templates and merge fields as Evenpost's.

They run in an environment of their own and import nothing else of this project.
"""

import json
import os
from collections.abc import Iterator
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid
from pathlib import Path

from jinja2 import Environment

_given = json.loads(Path(os.environ["LETTER"]).read_text())
SENDER: str = _given["sender"]
_subject = Environment().from_string(_given["subject"])  # noqa: S701 - a header, not HTML
_text = Environment().from_string(_given["text"])  # noqa: S701 - text, not HTML
_html = Environment(autoescape=True).from_string(_given["html"])


def rows(messages: int) -> Iterator[dict[str, str]]:
    for n in range(messages):
        yield {
            "email": f"user{n}@example{n % 97}.com",
            "first_name": f"Anna{n % 1000}",
            "city": "Hamburg",
            "token": f"{n:08x}",
        }


def compose(row: dict[str, str]) -> EmailMessage:
    """With the standard library, as its documentation shows it."""
    message = EmailMessage(SMTP)
    message["From"] = SENDER
    message["To"] = row["email"]
    message["Subject"] = _subject.render(row)
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain="example.com")
    message.set_content(_text.render(row))
    message.add_alternative(_html.render(row), subtype="html")
    return message
