"""Evenpost: email campaigns through many SMTP servers, each message to the least busy one.

This package holds what broker, worker and client share; it imports none of them.
"""

__version__ = "0.1.0"
