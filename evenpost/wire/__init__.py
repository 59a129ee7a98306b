"""The protocol between clients, broker and workers, and nothing else. docs/protocol.md tells it in prose."""
