"""The broker's durable store: an interface of a few calls, and SQLite behind it."""
