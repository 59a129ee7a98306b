"""Composing: a campaign's template and a recipient's values in, the bytes of a message out.

The worker sends with it, the client checks and previews with it.
"""

from evenpost.compose.composer import SHORT_VALUE_CHARS, Composer, Envelope, compile_template, fields_used
from evenpost.compose.errors import ComposeError, TemplateError

__all__ = [
    "SHORT_VALUE_CHARS",
    "ComposeError",
    "Composer",
    "Envelope",
    "TemplateError",
    "compile_template",
    "fields_used",
]
