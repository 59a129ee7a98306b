"""The SMTP engine: a pure protocol core, a thin asyncio shell around it, and a pool of both."""
