"""The process of the part ``packages``: reads pip's settings in the image, and listens."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from labdock.core.errors import HostError
from labdock.core.site import PACKAGES_PORT
from labdock.packages.source import read_source
from labdock.packages.store import Store

log = logging.getLogger(__name__)

PIP_SETTINGS = Path("/etc/pip.conf")
THREADS = 32
"""How many files may arrive from the index at the same time; those that are kept need no thread."""


def main(argv: Sequence[str], folder: Path) -> int:
    """Serve from *folder* the number of bytes in *argv* at most; the process's exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    for talkative in ("proxpi", "waitress", "waitress.queue"):
        logging.getLogger(talkative).setLevel(logging.WARNING if talkative == "waitress" else logging.ERROR)
    import waitress  # noqa: PLC0415  it takes the logging as it finds it, as proxpi does

    from labdock.packages.door import make_door  # noqa: PLC0415

    most_bytes = int(argv[0])
    try:
        source = read_source(PIP_SETTINGS)
    except HostError as error:
        log.error("%s", error)
        return 1
    door = make_door(source, lambda session: Store(folder, most_bytes, session))
    log.info("packages of %s: at most %.1f GiB are kept", source.index_url, most_bytes / 2**30)
    waitress.serve(
        door,
        listen=f"0.0.0.0:{PACKAGES_PORT}",
        threads=THREADS,
        ident=None,
        # What a slow reader has not taken yet stays in memory up to here, and then the file waits.
        outbuf_high_watermark=2**20,
        connection_limit=1000,
        asyncore_use_poll=True,  # or it ends at the 1024th connection
        channel_timeout=60,
        clear_untrusted_proxy_headers=True,
        _quiet=True,
    )
    return 0
