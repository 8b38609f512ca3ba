"""Chromium, deaf to what becomes of this machine's network interfaces.

Each session brings an interface and takes it away. Chromium hears of that from the kernel, takes it for a
change of network, and drops the pages on their way with ERR_NETWORK_CHANGED, or lets them hang. Where the
kernel refuses it the socket to hear by, it goes on without. People's browsers run on other machines.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from pathlib import Path

from pyseccomp import ALLOW, EQ, ERRNO, Arg, SyscallFilter

PROGRAM = Path(__file__).with_name("chromium")
"""What to start. The refusal is for the process that asks for it, and its children: hence a program."""


def main() -> None:
    refuse = SyscallFilter(ALLOW)
    refuse.add_rule(ERRNO(errno.EAFNOSUPPORT), "socket", Arg(0, EQ, socket.AF_NETLINK))
    refuse.load()
    os.execv("/usr/bin/chromium", ["chromium", *sys.argv[1:]])  # noqa: S606  no shell is wanted


if __name__ == "__main__":
    main()
