"""Runs cells in a kernel, inside a session's image: cells.py KERNEL CELL...; prints what each shows."""

from __future__ import annotations

import sys
from typing import Any

from jupyter_client.manager import KernelManager


def show(message: dict[str, Any]) -> None:
    content = message["content"]
    if message["msg_type"] == "stream":
        print(content["text"], end="")
    elif message["msg_type"] == "execute_result":
        print(content["data"]["text/plain"])
    elif message["msg_type"] == "error":
        print(f"{content['ename']}: {content['evalue']}")


def main(kernel: str, *cells: str) -> None:
    manager = KernelManager(kernel_name=kernel)
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        for cell in cells:
            print(f"[{cell}]")
            client.execute_interactive(cell, timeout=120, output_hook=show)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


main(*sys.argv[1:])
