"""`python -m ragself` is the command `ragself`."""

from ragself.cli.app import main

main()
