"""A simulated NVIDIA driver: the files, nodes and state of a machine with cards that do not exist.

Everything lies below one folder, the root: what a real machine has in /proc, /sys, /dev and /usr, and in
``state`` what the simulated libraries read. The libraries themselves are in ``images/simulation``.
"""
