"""TLS with one server: what is trusted, what is pinned, and what to say when it isn't good."""

import asyncio
import ssl

from worker.smtp.config import ConfigError, ServerConfig
from worker.smtp.pins import CertificateError, is_pinned, pins_of


class PinError(ssl.SSLError):
    """The certificate may be good, but it isn't one of those that were pinned."""

    def __str__(self) -> str:
        return str(self.args[-1])


def tls_context(config: ServerConfig) -> ssl.SSLContext | None:
    """What this server's TLS needs; None where there is no TLS."""
    if config.tls == "none":
        return None
    try:
        context = ssl.create_default_context(cafile=config.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"can't read certificates from ca_file {config.ca_file}: {error}") from None
    # Said here, since the system's configuration of OpenSSL may allow less (RFC 8996: 1.0 and 1.1 are gone).
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not config.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def check_pins(config: ServerConfig, transport: asyncio.BaseTransport) -> None:
    """Raises PinError for a certificate that isn't pinned, where some are."""
    if not config.tls_pins:
        return
    tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    certificate = tls.getpeercert(binary_form=True) if tls is not None else None
    if certificate is not None and is_pinned(certificate, config.tls_pins):
        return
    seen = "it shows none"
    if certificate is not None:
        try:
            seen = "it is {}, its key {}".format(*pins_of(certificate))
        except CertificateError:
            seen = "it can't be read"
    raise PinError(f"the certificate of {config.host} is none of those in tls_pin: {seen}")


def advice(error: Exception, config: ServerConfig) -> str:
    """Why there is no TLS, and what to do."""
    if isinstance(error, PinError):
        return str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {config.host} isn't good: {error.verify_message}. If it is your own "
            "server's, name its authority with ca_file="
        )
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return f"{config.host}:{config.port} doesn't speak TLS: smtps:// is for ports with TLS from the start"
    return f"no TLS with {config.host}:{config.port}: {str(error) or type(error).__name__}"
