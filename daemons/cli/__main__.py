"""``python -m daemons.cli``: how a supervisor starts a daemon with its own interpreter."""

from daemons.cli import main

main()
