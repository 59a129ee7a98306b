"""What composing says when it can't. The template's author is to blame for the one, a recipient's data for
the other; whatever else is raised here is a fault of ours."""


class TemplateError(Exception):
    """The template can't be used, whoever the recipient is."""

    code = "bad_template"

    def __init__(self, part: str, line: int | None, message: str) -> None:
        super().__init__(f"{_place(part, line)}: {message}")
        self.part = part
        """Which part of the template: `subject`, `html`, `header X-Name`, `attachment a.pdf`, ..."""
        self.line = line
        self.message = message


class ComposeError(Exception):
    """This recipient's message can't be made from this recipient's data."""

    code = "bad_recipient_data"

    def __init__(self, part: str, message: str, line: int | None = None, field: str | None = None) -> None:
        super().__init__(f"{_place(part, line)}: {message}")
        self.part = part
        self.message = message
        self.line = line
        self.field = field
        """The merge field that has no value, where that is the reason."""


class HeaderError(ValueError):
    """A value that no header can carry. The callers know the part and turn it into one of the above."""


def _place(part: str, line: int | None) -> str:
    return part if line is None else f"{part}, line {line}"
