"""The way from the greeting to the first MAIL: EHLO, STARTTLS, EHLO again, AUTH. Pure."""

from enum import Enum, auto

import msgspec

from worker.smtp import auth, capabilities
from worker.smtp.capabilities import Capabilities
from worker.smtp.config import ServerConfig
from worker.smtp.outcome import Cause, Result, Stage, classify, failure
from worker.smtp.reply import Reply


class Next(Enum):
    START_TLS = auto()
    READY = auto()


Step = bytes | Result | Next
"""Send this, or fail for this reason, or go on to that."""


class Handshake:
    """Takes one reply after the other and says what comes next. Every request waits for its reply."""

    def __init__(self, config: ServerConfig, helo_name: str, *, tls_active: bool) -> None:
        self._config = config
        self._helo_name = helo_name.encode("ascii")
        self._exchange: auth.AuthExchange | None = None
        self.stage = Stage.GREETING
        """What is being waited for."""
        self.tls_active = tls_active
        self.capabilities = Capabilities()

    def tls_established(self) -> bytes:
        """Everything learnt before TLS is forgotten (RFC 3207 4.2): ask again."""
        assert self.stage is Stage.TLS
        self.tls_active = True
        self.capabilities = Capabilities()
        return self._ehlo()

    def receive(self, reply: Reply, *, more_arrived: bool) -> Step:
        """`more_arrived`: bytes after this reply are there already."""
        accepted = 200 <= reply.code < 300
        match self.stage:
            case Stage.GREETING:
                return self._ehlo() if accepted else classify(self.stage, reply)
            case Stage.EHLO:
                if accepted:
                    self.capabilities = capabilities.parse(reply, self._config.discard_ehlo_keywords)
                    return self._secure()
                if reply.code < 500:
                    return classify(self.stage, reply)
                self.stage = Stage.HELO
                return b"HELO " + self._helo_name + b"\r\n"
            case Stage.HELO:
                return self._secure() if accepted else classify(self.stage, reply)
            case Stage.STARTTLS:
                return self._starttls_answered(reply, accepted, more_arrived)
            case Stage.AUTH:
                if accepted:
                    return Next.READY
                return self._auth_answered(reply)
            case _:
                return failure(Cause.PROTOCOL, self.stage, f"unexpected reply: {reply.code} {reply.text}")

    def _ehlo(self) -> bytes:
        self.stage = Stage.EHLO
        return b"EHLO " + self._helo_name + b"\r\n"

    def _secure(self) -> Step:
        mode = self._config.tls
        if self.tls_active or mode == "none":
            return self._login()
        if mode == "required" and not self.capabilities.starttls:
            return failure(
                Cause.TLS,
                Stage.STARTTLS,
                "TLS is required and the server doesn't offer STARTTLS: use smtps:// if it has TLS "
                "from the start; tls=none would send everything readable",
            )
        if not self.capabilities.starttls:
            return self._login()
        self.stage = Stage.STARTTLS
        return b"STARTTLS\r\n"

    def _starttls_answered(self, reply: Reply, accepted: bool, more_arrived: bool) -> Step:
        if not accepted:
            if self._config.tls == "opportunistic":
                return self._login()
            return classify(self.stage, reply)
        if more_arrived:
            # Somebody in between put it there, to be taken as if it had come through TLS
            # (CVE-2011-0411 and its kin).
            return failure(Cause.TLS, self.stage, "plain text was injected after the answer to STARTTLS")
        self.stage = Stage.TLS
        return Next.START_TLS

    def _auth_answered(self, reply: Reply) -> Step:
        exchange = self._exchange
        assert exchange is not None
        if reply.code != 334:
            return classify(self.stage, self._concealed(reply))
        if exchange.given_up:
            # It should have answered `*` with 501 (RFC 4954 4), and would ask for ever.
            return failure(Cause.PROTOCOL, self.stage, "the server goes on asking for more in AUTH")
        return exchange.answer()

    def _concealed(self, reply: Reply) -> Reply:
        return msgspec.structs.replace(reply, lines=tuple(map(self.conceal, reply.lines)))

    def conceal(self, text: str) -> str:
        """Without what we logged in with: servers repeat in a reply what they didn't understand."""
        return self._exchange.conceal(text) if self._exchange is not None else text

    def _login(self) -> Step:
        config = self._config
        if not config.username:
            return Next.READY
        self.stage = Stage.AUTH
        if not self.tls_active and not config.cleartext_auth:
            return failure(
                Cause.CREDENTIALS, self.stage, "not logging in without TLS: use tls=required or smtps://"
            )
        offered = self.capabilities.auth
        mechanism = next((name for name in config.auth if name in offered), None)
        if mechanism is None:
            return failure(
                Cause.CREDENTIALS,
                self.stage,
                f"the server offers {', '.join(sorted(offered)) or 'no AUTH'}, "
                f"we can log in by {', '.join(config.auth)}: set auth= to one of the server's",
            )
        self._exchange = auth.begin(mechanism, config.username, config.password.reveal())
        return self._exchange.command
