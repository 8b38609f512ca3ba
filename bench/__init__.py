"""Labdock beside the stock stack, in one run on one machine: ``python -m bench``."""
