"""The agent hands a new certificate to the edge, and keeps a damaged one from it."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web

from labdock.adapters.edge_admin import EdgeAdmin
from labdock.agent.certificates import CertificateKeeper
from labdock.core.errors import HostError
from labdock.core.site import CertificateRules
from tests.authorities import Lab, Made, lab

NAME = "gpu.lab.example"


class FakeEdge:
    """Takes orders as Caddy does: its configuration is asked for, and loaded again."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.loaded: list[bytes] = []
        self.refusal = ""

    async def start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/config/", self._config)
        app.router.add_post("/load", self._load)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, str(self.socket)).start()
        return runner

    async def _config(self, request: web.Request) -> web.Response:
        return web.json_response({"apps": {}})

    async def _load(self, request: web.Request) -> web.Response:
        assert request.headers["Cache-Control"] == "must-revalidate"
        if self.refusal:
            return web.json_response({"error": self.refusal}, status=400)
        self.loaded.append(await request.read())
        return web.Response()


class Files:
    """What an administrator has, as certbot lays it out: links to files of another folder."""

    def __init__(self, root: Path, authority: Lab) -> None:
        self.root, self.authority, self.number = root, authority, 0
        self.live, self.archive = root / "host/etc/le/live/gpu", root / "host/etc/le/archive/gpu"
        for folder in (self.live, self.archive):
            folder.mkdir(parents=True)
        self.pair = root / "own/pair.pem"
        self.pair.parent.mkdir()
        self.rules = CertificateRules(
            host=NAME,
            names=(NAME,),
            address="127.0.0.1",
            port=1,
            cert="/etc/le/live/gpu/cert.pem",
            key="/etc/le/live/gpu/key.pem",
            files=str(root / "host"),
            pair=str(self.pair),
        )

    def put(self, leaf: Made, *, key: str = "", absolute: bool = False) -> None:
        self.number += 1
        for name, text in (("cert", self.authority.chain(leaf)), ("key", key or leaf.key)):
            (self.archive / f"{name}{self.number}.pem").write_text(text)
            link, new = self.live / f"{name}.pem", self.live / f".{name}"
            base = "/etc/le/archive/gpu" if absolute else "../../archive/gpu"
            new.symlink_to(f"{base}/{name}{self.number}.pem")
            new.rename(link)


@pytest.fixture(scope="module")
def authority() -> Lab:
    return lab()


@pytest.fixture
def files(tmp_path: Path, authority: Lab) -> Files:
    return Files(tmp_path, authority)


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[FakeEdge]:
    fake = FakeEdge(tmp_path / "admin.sock")
    runner = await fake.start()
    yield fake
    await runner.cleanup()


def keeper(files: Files, edge: FakeEdge) -> CertificateKeeper:
    return CertificateKeeper(files.rules, EdgeAdmin(edge.socket), os.getuid())


@pytest.mark.parametrize("absolute", [False, True])
async def test_a_changed_certificate_is_copied_and_loaded_once(
    files: Files, edge: FakeEdge, authority: Lab, absolute: bool
) -> None:
    one, two = authority.issue(NAME), authority.issue("*.lab.example")
    keeping = keeper(files, edge)
    files.put(one, absolute=absolute)
    for _ in range(3):
        await keeping.look()
    assert not keeping.problem
    assert len(edge.loaded) == 1
    assert files.pair.read_text() == authority.chain(one) + one.key
    assert stat.S_IMODE(files.pair.stat().st_mode) == 0o600
    files.put(two, absolute=absolute)
    for _ in range(3):
        await keeping.look()
    assert not keeping.problem
    assert len(edge.loaded) == 2
    assert files.pair.read_text() == authority.chain(two) + two.key


async def test_a_damaged_one_leaves_the_one_before_and_is_told_of_until_it_is_mended(
    files: Files, edge: FakeEdge, authority: Lab
) -> None:
    good = authority.issue(NAME)
    keeping = keeper(files, edge)
    files.put(good)
    await keeping.look()
    kept = files.pair.read_text()
    ended = authority.issue(NAME, begins_in=timedelta(days=-9), lives=timedelta(days=8))
    for bad, key, words in (
        (good, authority.issue(NAME).key, "is not that of the certificate"),
        (good, good.locked_key, "has a password"),
        (good, "nothing", "holds no private key"),
        (authority.issue("other.lab.example"), "", "and not for gpu.lab.example"),
        (ended, "", "ended 1 day ago"),
    ):
        files.put(bad, key=key)
        await keeping.look()
        assert keeping.problem is not None
        assert words in keeping.problem
        # As the administrator knows the file, not as it lies in the container.
        assert str(files.root) not in keeping.problem
        assert files.pair.read_text() == kept
    assert len(edge.loaded) == 1
    (files.live / "cert.pem").unlink()
    await keeping.look()
    assert keeping.problem is not None
    assert "is not there" in keeping.problem
    files.put(authority.issue(NAME))
    await keeping.look()
    assert not keeping.problem
    assert len(edge.loaded) == 2


async def test_an_edge_that_refuses_or_is_away_is_asked_again(
    files: Files, edge: FakeEdge, authority: Lab
) -> None:
    keeping = keeper(files, edge)
    files.put(authority.issue(NAME))
    edge.refusal = "loading certificates: no such file"
    await keeping.look()
    assert keeping.problem is not None
    assert "no such file" in keeping.problem
    edge.refusal = ""
    await keeping.look()
    assert not keeping.problem
    away = CertificateKeeper(files.rules, EdgeAdmin(files.root / "nobody.sock"), os.getuid())
    await away.look()
    assert away.problem is not None
    assert "does not answer" in away.problem


async def test_a_site_without_files_is_not_watched(tmp_path: Path) -> None:
    keeping = CertificateKeeper(None, EdgeAdmin(tmp_path / "nobody.sock"), os.getuid())
    async with asyncio.timeout(1):
        await keeping.run()
    assert not keeping.problem
    with pytest.raises(HostError, match="no certificate of its own"):
        await keeping.served()
