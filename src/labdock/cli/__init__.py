"""The command line: argv → facts → plan → apply; the only place that prints and exits."""

from labdock.cli.main import main

__all__ = ["main"]
