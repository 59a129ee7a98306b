"""The broker: takes campaigns in, keeps them in its journal, gives each message to the least busy server."""
