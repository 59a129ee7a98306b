"""The worker: it sends batches of messages to one SMTP server and tells the broker what became of each."""
