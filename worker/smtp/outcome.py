"""From what happened to what it means: one table, read from the top, the first fitting row counts.

`kind` says what became of the message, `scope` what the reason speaks about:

| kind     | scope     | meaning                                                                    |
|----------|-----------|----------------------------------------------------------------------------|
| sent     | recipient | the server answered 2xx to the content                                     |
| deferred | recipient | try again later; costs an attempt                                          |
| bounced  | recipient | final: no other server would say otherwise                                 |
| bounced  | server    | this server will never take it, another one may; final when all have said so |
| not_sent | server    | the server is unwell or misconfigured: try elsewhere; costs no attempt     |
| not_sent | throttled | the server is well and wants less from us; costs no attempt                |
| not_sent | recipient | the sender gave it up before its last byte; says nothing about the server   |
| unknown  | server    | the last byte went out and no answer came                                  |
"""

import re
from enum import StrEnum
from typing import Literal

import msgspec

from evenpost.wire.limits import REPLY_CHARS_MAX
from worker.smtp.reply import Reply

Kind = Literal["sent", "deferred", "bounced", "unknown", "not_sent"]
Scope = Literal["recipient", "server", "throttled"]


class Stage(StrEnum):
    """Where a connection or a message was when it got its result."""

    CONNECT = "connect"
    TLS = "tls"
    GREETING = "greeting"
    EHLO = "ehlo"
    HELO = "helo"
    STARTTLS = "starttls"
    AUTH = "auth"
    IDLE = "idle"
    RSET = "rset"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    CONTENT = "content"  # after the 354 or BDAT, before the last byte
    DOT = "dot"  # between the last byte and its answer
    BDAT = "bdat"  # the same where the content went by BDAT (RFC 3030)
    EMPTY_DOT = "empty_dot"  # ends a DATA that no recipient was accepted for
    QUIT = "quit"


class Result(msgspec.Struct, frozen=True, gc=False):
    """What became of a message, or why a connection ended. `code` is 0 where no reply was the reason."""

    kind: Kind
    stage: Stage
    code: int
    enhanced: str | None
    text: str
    scope: Scope


class Rule(msgspec.Struct, frozen=True):
    """A row. An empty column fits everything; codes and enhanced codes fit by their beginning."""

    kind: Kind
    scope: Scope
    why: str
    stages: tuple[Stage, ...] = ()
    codes: tuple[str, ...] = ()
    enhanced: tuple[str, ...] = ()
    text: re.Pattern[str] | None = None


_SESSION = (
    Stage.GREETING, Stage.EHLO, Stage.HELO, Stage.STARTTLS, Stage.AUTH,
    Stage.IDLE, Stage.RSET, Stage.EMPTY_DOT, Stage.QUIT,
)  # fmt: skip
_DOT, _BDAT = Stage.DOT, Stage.BDAT
_AFTER_MAIL = (Stage.RCPT, Stage.DATA, Stage.CONTENT, Stage.DOT, Stage.BDAT)

# Of Postfix (anvil), Exim, Sendmail, SES, Gmail, Outlook, Yahoo: a number or a rate of ours is too high.
_THROTTLES = re.compile(
    r"too many (?:[\w-]+ ){0,3}(?:connections|sessions|messages|mails|emails|requests)|"
    r"too much mail|too fast|slow down|rate[- ]?limit|throttl|overload|"
    r"(?:sending|message|connection|unusual|maximum|max) rate|"
    r"(?:daily|hourly|sending) (?:\w+ )?quota|server (?:is )?(?:too )?busy",
    re.IGNORECASE,
)
_NO_ROOM = re.compile(r"insufficient (?:\w+ )?(?:storage|resources|disk|memory)", re.IGNORECASE)
# Postfix speaks about client and sender only at RCPT (smtpd_delay_reject), and others do too.
_REFUSES_US = re.compile(
    r"relay(?:ing)? (?:access )?(?:is )?(?:denied|not (?:permitted|allowed)|prohibited)|"
    r"unable to relay|not (?:permitted|allowed) to relay|"
    r"sender address rejected|client host|helo command rejected|blocked using",
    re.IGNORECASE,
)
_WANTS_LOGIN = re.compile(
    r"authentication (?:is )?required|must (?:first )?(?:authenticate|log ?in)|issue a starttls",
    re.IGNORECASE,
)

RULES: tuple[Rule, ...] = (
    Rule("sent", "recipient", "accepted", stages=(Stage.DOT, Stage.BDAT), codes=("2",)),
    Rule("not_sent", "throttled", "421 for our number or rate", codes=("421",), text=_THROTTLES),
    Rule("not_sent", "server", "421 may answer anything: the server is closing", codes=("421",)),
    Rule("not_sent", "throttled", "no session for our number or rate",
         stages=(Stage.GREETING, Stage.EHLO, Stage.HELO), codes=("450", "451", "452"), text=_THROTTLES),
    Rule("not_sent", "server", "there is no usable session", stages=_SESSION),
    Rule("not_sent", "server", "it wants another login or TLS, or takes no mail at all (RFC 7504)",
         codes=("530", "534", "535", "538", "521")),
    Rule("not_sent", "server", "it wants a login or doesn't relay for us, for now",
         codes=("454",), text=_REFUSES_US),
    Rule("not_sent", "server", "it wants a login or TLS, for now", codes=("454",), text=_WANTS_LOGIN),
    Rule("not_sent", "throttled", "Amazon SES: maximum sending rate exceeded", codes=("454",)),
    Rule("not_sent", "server", "it lost track of the session or doesn't know a command every server knows",
         stages=(Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.BDAT), codes=("500", "502", "503")),
    # MAIL: the recipient hasn't been named, so this is about the server or the sender.
    Rule("deferred", "recipient", "the sender's address can't be checked now",
         stages=(Stage.MAIL,), codes=("4",), enhanced=("4.1.",)),
    Rule("not_sent", "throttled", "too many messages or connections of ours",
         stages=(Stage.MAIL,), codes=("4",), text=_THROTTLES),
    Rule("not_sent", "server", "it takes no mail now", stages=(Stage.MAIL,), codes=("4",)),
    Rule("not_sent", "server", "it wants a login or TLS",
         stages=(Stage.MAIL, Stage.RCPT), codes=("5",), text=_WANTS_LOGIN),
    Rule("bounced", "server", "the sender isn't allowed here, or the message is too big for it",
         stages=(Stage.MAIL,), codes=("5",)),
    # After MAIL: about the recipient, unless the reply says otherwise.
    Rule("deferred", "recipient", "the address or its mailbox",
         stages=_AFTER_MAIL, codes=("4",), enhanced=("4.1.", "4.2.")),
    Rule("not_sent", "throttled", "too many messages or connections of ours",
         stages=_AFTER_MAIL, codes=("4",), text=_THROTTLES),
    Rule("not_sent", "throttled", "mail system congestion (RFC 3463 3.5)",
         stages=_AFTER_MAIL, codes=("4",), enhanced=("4.4.5",)),
    Rule("not_sent", "server", "the mail system is in trouble",
         stages=_AFTER_MAIL, codes=("4",), enhanced=("4.3.",)),
    Rule("not_sent", "server", "no room", stages=_AFTER_MAIL, codes=("4",), text=_NO_ROOM),
    Rule("not_sent", "server", "insufficient system storage",
         stages=_AFTER_MAIL, codes=("452",)),
    Rule("deferred", "recipient", "greylisting and everything else that passes",
         stages=_AFTER_MAIL, codes=("4",)),
    Rule("bounced", "server", "the sender's address",
         stages=_AFTER_MAIL, codes=("5",), enhanced=("5.1.7", "5.1.8")),
    Rule("bounced", "server", "it doesn't relay for us, or not for this sender",
         stages=_AFTER_MAIL, codes=("5",), text=_REFUSES_US),
    Rule("bounced", "recipient", "the address or its mailbox",
         stages=_AFTER_MAIL, codes=("5",), enhanced=("5.1.", "5.2.")),
    Rule("bounced", "server", "too big, or another limit of this server's",
         stages=_AFTER_MAIL, codes=("5",), enhanced=("5.3.",)),
    Rule("bounced", "server", "too big for this server",
         stages=(Stage.DATA, Stage.CONTENT, Stage.DOT, Stage.BDAT), codes=("552",)),
    Rule("bounced", "recipient", "refused for good", stages=_AFTER_MAIL, codes=("5",)),
)  # fmt: skip


class Cause(StrEnum):
    """What happened where there was no reply, or where we refused before asking."""

    REFUSED = "connection refused"
    UNREACHABLE = "no way to the server"
    LOST = "connection lost"
    TIMEOUT = "timeout"
    TLS = "tls failed"
    PROTOCOL = "protocol error"
    CREDENTIALS = "cannot log in"
    CANCELLED = "cancelled"
    GIVEN_UP = "given up"
    TOO_BIG = "too big"
    SMTPUTF8 = "smtputf8 needed"
    BAD_SENDER = "bad sender address"
    BAD_RECIPIENT = "bad recipient address"


CAUSES: dict[Cause, tuple[Kind, Scope, str | None]] = {
    # A message whose last byte went out is `unknown` instead, whatever the cause.
    Cause.REFUSED: ("not_sent", "server", "4.4.1"),
    Cause.UNREACHABLE: ("not_sent", "server", "4.4.4"),
    Cause.LOST: ("not_sent", "server", "4.4.2"),
    Cause.TIMEOUT: ("not_sent", "server", "4.4.2"),
    Cause.TLS: ("not_sent", "server", "4.7.5"),
    Cause.PROTOCOL: ("not_sent", "server", "4.5.0"),
    Cause.CREDENTIALS: ("not_sent", "server", "4.7.0"),
    Cause.CANCELLED: ("not_sent", "recipient", None),
    Cause.GIVEN_UP: ("not_sent", "recipient", None),
    Cause.TOO_BIG: ("bounced", "server", "5.3.4"),
    Cause.SMTPUTF8: ("bounced", "server", "5.6.7"),
    Cause.BAD_SENDER: ("bounced", "recipient", "5.1.7"),
    Cause.BAD_RECIPIENT: ("bounced", "recipient", "5.1.3"),
}


def classify(stage: Stage, reply: Reply) -> Result:
    """The result that a refusal means, or an acceptance of the content."""
    if (stage is _DOT or stage is _BDAT) and 200 <= reply.code < 300:  # the first row, nearly every message's
        return Result("sent", stage, reply.code, reply.enhanced, reply.text[:REPLY_CHARS_MAX], "recipient")
    code, enhanced = str(reply.code), reply.enhanced or ""
    for rule in RULES:
        if (
            (not rule.stages or stage in rule.stages)
            and (not rule.codes or code.startswith(rule.codes))
            and (not rule.enhanced or enhanced.startswith(rule.enhanced))
            and (rule.text is None or rule.text.search(reply.text))
        ):
            text = reply.text[:REPLY_CHARS_MAX]
            return Result(rule.kind, stage, reply.code, reply.enhanced, text, rule.scope)
    raise ValueError(f"a {reply.code} at {stage} is no outcome")


def failure(cause: Cause, stage: Stage, text: str) -> Result:
    """The result of something that isn't a reply."""
    kind, scope, enhanced = CAUSES[cause]
    return Result(kind, stage, 0, enhanced, text[:REPLY_CHARS_MAX], scope)


def turned_away(result: Result) -> bool:
    """Whether a server that is well says this to one connection too many: 421, refused, or nothing."""
    if result.kind != "not_sent":
        return False
    if result.scope == "throttled" or result.code == 421:
        return True
    silent = result.code == 0 and result.enhanced in ("4.4.1", "4.4.2")
    return silent and result.stage in (Stage.CONNECT, Stage.GREETING)


def beside_others(result: Result) -> Result:
    """What this means while other connections to the same server work: it isn't the server that is unwell."""
    if result.scope == "server" and turned_away(result):
        return msgspec.structs.replace(result, scope="throttled")
    return result
