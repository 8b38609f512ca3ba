"""An index of the tests' own, and the part in front of it, both listening for real."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
import waitress.server

from labdock.packages.door import make_door
from labdock.packages.source import Source, SourceSession
from labdock.packages.store import Store


@dataclass
class FakeIndex:
    """Pages and files by name; ``asked`` counts requests, ``status`` answers them all, ``gate`` holds files.

    ``digests`` says of a file something else than what is true; ``kind`` is that of the pages.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    status: int = 200
    kind: str = "json"
    cut_after: int | None = None
    gate: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def page(self, project: str) -> tuple[str, bytes] | None:
        names = [name for name in self.files if name.partition("-")[0] == project]
        if not names:
            return None
        digests = {
            name: self.digests.get(name, hashlib.sha256(self.files[name]).hexdigest()) for name in names
        }
        if self.kind == "html":
            links = (
                f'<a href="../../files/{n}{f"#sha256={digests[n]}" if digests[n] else ""}">{n}</a>'
                for n in names
            )
            return "text/html", f"<html><body>{'<br>'.join(links)}</body></html>".encode()
        listed = [
            {
                "filename": name,
                "url": f"{self.url}/files/{name}",
                "hashes": {"sha256": digests[name]} if digests[name] else {},
            }
            for name in names
        ]
        body = {"meta": {"api-version": "1.0"}, "name": project, "files": listed}
        return "application/vnd.pypi.simple.v1+json", json.dumps(body).encode()

    def handler(self) -> type[BaseHTTPRequestHandler]:
        index = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                index.asked[self.path] += 1
                index.headers[self.path] = dict(self.headers)
                parts = self.path.strip("/").split("/")
                found: tuple[str, bytes] | None = None
                if parts[0] == "simple" and len(parts) == 2 and self.path.endswith("/"):
                    found = index.page(parts[1])
                elif parts[0] == "files" and parts[1] in index.files:
                    found = "application/octet-stream", index.files[parts[1]]
                status = index.status if index.status != 200 else 200 if found else 404
                kind, body = found if found and status == 200 else ("text/plain", b"no")
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "HEAD":
                    return
                if parts[0] == "files" and status == 200:
                    half = len(body) // 2
                    self.wfile.write(body[:half])
                    self.wfile.flush()
                    index.gate.wait(10)
                    if index.cut_after is not None:
                        self.close_connection = True
                        return
                    body = body[half:]
                self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815  the server's word

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


@dataclass
class Front:
    """The part: its address, where it keeps files, and the index behind it."""

    url: str
    folder: Path
    index: FakeIndex

    def get(self, path: str, **words: object) -> requests.Response:
        return requests.get(f"{self.url}{path}", timeout=10, **words)  # type: ignore[arg-type]

    def kept(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


@pytest.fixture
def index() -> Iterator[FakeIndex]:
    fake = FakeIndex()
    fake.gate.set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), fake.handler())
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield fake
    server.shutdown()
    server.server_close()


@dataclass
class Fronts:
    """Makes the part anew, as a restart would, over the same folder."""

    index: FakeIndex
    folder: Path
    running: list[waitress.server.BaseWSGIServer] = field(default_factory=list)

    def start(self, most_bytes: int = 10**9, free_bytes: int = 10**12, **source: object) -> Front:
        settings = Source(index_url=f"{self.index.url}/simple/", **source)  # type: ignore[arg-type]

        def store(session: SourceSession) -> Store:
            return Store(self.folder, most_bytes, session, free_bytes=lambda folder: free_bytes)

        server = waitress.server.create_server(
            make_door(settings, store), listen="127.0.0.1:0", threads=8, clear_untrusted_proxy_headers=True
        )
        threading.Thread(target=server.run, daemon=True).start()
        self.running.append(server)
        return Front(f"http://127.0.0.1:{server.effective_port}", self.folder, self.index)


@pytest.fixture
def fronts(index: FakeIndex, tmp_path: Path) -> Iterator[Fronts]:
    folder = tmp_path / "kept"
    folder.mkdir()
    made = Fronts(index, folder)
    yield made
    for server in made.running:
        # In the thread that waits for its sockets; if it is awake, it closes before it is woken.
        with suppress(OSError):
            server.trigger.pull_trigger(server.close)


@pytest.fixture
def front(fronts: Fronts) -> Front:
    return fronts.start()
