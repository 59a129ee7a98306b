from collections.abc import Callable
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any

import pytest

from evenpost.compose import Composer, compile_template
from evenpost.wire.messages import Template

Make = Callable[..., Composer]


@pytest.fixture
def make() -> Make:
    """A composer for a template that is whole but for what a test is about."""

    def make(**parts: Any) -> Composer:
        whole = {"sender": "News <news@example.com>", "subject": "Hello", "text": "Hi\n"} | parts
        return compile_template(Template(**whole), campaign_id="c1", created_at_ms=0)

    return make


@pytest.fixture
def parse() -> Callable[[bytes], EmailMessage]:
    def parse(raw: bytes) -> EmailMessage:
        message = BytesParser(policy=policy.SMTP).parsebytes(raw)
        assert isinstance(message, EmailMessage)
        assert not [defect for part in message.walk() for defect in part.defects]
        return message

    return parse


@pytest.fixture
def text_of() -> Callable[..., str]:
    """The text part of a message, or its HTML, with the line ends of Python."""

    def text_of(message: EmailMessage, kind: str = "plain") -> str:
        body = message.get_body((kind,))
        assert body is not None
        return str(body.get_content()).replace("\r\n", "\n")

    return text_of
