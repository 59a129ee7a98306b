"""DKIM: signing messages (RFC 6376; Ed25519 by RFC 8463) and the keys for it.

The worker signs with it, the client makes keys. Verifying is for others.
"""

from evenpost.dkim.keys import DkimKeyError, SigningKey
from evenpost.dkim.signing import Signer

__all__ = ["DkimKeyError", "Signer", "SigningKey"]
