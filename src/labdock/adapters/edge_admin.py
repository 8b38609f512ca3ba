"""The edge's administration, on a Unix socket: only to have it read its certificate anew."""

from __future__ import annotations

from pathlib import Path

import aiohttp

from labdock.core.errors import HostError

_PATIENCE = aiohttp.ClientTimeout(total=30)


class EdgeAdmin:
    """The edge behind *socket*."""

    def __init__(self, socket: Path) -> None:
        self._socket = str(socket)

    async def reload(self) -> None:
        """Have the edge load what it runs again, files included. Connections that are open stay.

        Raises:
            HostError: It does not answer, or refuses; it then goes on as before.
        """
        try:
            async with aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(self._socket), timeout=_PATIENCE
            ) as session:
                async with session.get("http://127.0.0.1/config/") as answer:
                    config = await answer.read()
                    answer.raise_for_status()
                # Without this header, an unchanged configuration is left alone.
                headers = {"Content-Type": "application/json", "Cache-Control": "must-revalidate"}
                async with session.post("http://127.0.0.1/load", data=config, headers=headers) as answer:
                    text = await answer.text()
                    if answer.status != 200:
                        raise HostError(
                            f"The edge did not take the certificate: {text.strip()[:200]}",
                            fix="See: labdock logs edge",
                        )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise HostError(
                f"The edge does not answer on {self._socket} ({type(error).__name__}).",
                fix="See: labdock logs edge",
            ) from error
