"""Labdock: one GPU server, the whole lab."""

__version__ = "0.1.0"
