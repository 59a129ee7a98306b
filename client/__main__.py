"""`python -m client` is `evenpost`."""

from client.cli import main

main()
