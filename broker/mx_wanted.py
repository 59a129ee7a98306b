"""Whether mail exchangers have to be looked up at all: only then is dnspython imported."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.settings import Settings

if TYPE_CHECKING:
    from broker.mx import MxLookups


def mx_lookups(
    settings: Settings, wake: Callable[[], None], found: Callable[[str, str], None]
) -> "MxLookups | None":
    """None where no group of domains goes by its mail exchanger: not everybody has a name server at hand."""
    if not any(domain.mx for domain in settings.core.domains):
        return None
    from broker.mx import MxLookups

    return MxLookups(wake, found, resolver=settings.dns_resolver)
