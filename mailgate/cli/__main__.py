"""`python -m mailgate.cli` is the command `mailgate`."""

from mailgate.cli import main

main()
