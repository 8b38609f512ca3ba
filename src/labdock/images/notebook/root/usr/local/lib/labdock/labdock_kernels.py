"""Gives each of the notebook server's own clients of a kernel an identity of its own.

A kernel knows a connection by its identity, and a second one of the same takes the place of the first.
Every client of one manager has the manager's: whoever asks how much memory a kernel uses would cut off what
runs the cells, and the next cell would run for ever.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from jupyter_server.services.kernels.kernelmanager import (  # type: ignore[import-not-found]  # in images
    ServerKernelManager,
)


class KernelManager(ServerKernelManager):  # type: ignore[misc]  # in images, as above
    """What Jupyter uses for a kernel, but for the identity of its clients."""

    def client(self, **settings: Any) -> Any:
        """A client of this kernel that displaces no other."""
        session = self.session.clone()
        session.session = str(uuid4())
        return super().client(**{"session": session, **settings})
