"""``labdock users`` and ``labdock secret``, as they are typed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from labdock.cli.secret_commands import write_secret
from labdock.core.errors import BadRequestError
from tests.cli.commands import Command, in_a_thread

ADA = {
    "name": "ada",
    "login": "ada-l",
    "email": "ada@example.edu",
    "full_name": "",
    "admin": False,
    "state": "waiting",
    "created_at": "2030-01-01T00:00:00Z",
    "last_activity": None,
    "session": "none",
}

OLD = {**ADA, "name": "olga", "login": "", "email": "", "state": "active"}
"""Somebody of the time when people had local accounts."""


class FakeHub:
    """The hub's API of people; ``asked`` is what came: method, path, body."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.asked: list[tuple[str, str, Any]] = []

    @asynccontextmanager
    async def running(self) -> Any:
        app = web.Application()
        app.router.add_route("*", "/hub/api/labdock/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, str(self.socket)).start()
        yield self
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        path = request.path.removeprefix("/hub/api/labdock/")
        if request.method == "GET":
            return web.json_response([ADA, OLD])
        body = await request.json()
        self.asked.append((request.method, path, body))
        if path == "users":
            if body["name"] == "bad":
                return web.json_response({"message": "There is already somebody called 'bad'."}, status=409)
            made = {"name": body.get("as") or body["name"].lower(), "login": body["name"], "link": None}
            return web.json_response(made, status=201)
        return web.json_response({"name": "ada", "login": "ada-l", "state": "added"})


@pytest.fixture
def hub(labdock: Command, tmp_path: Path) -> Iterator[FakeHub]:
    fake = FakeHub(tmp_path / "state/run/edge/proxy.sock")
    fake.socket.parent.mkdir(parents=True)
    (tmp_path / "state/secrets").mkdir(parents=True)
    (tmp_path / "state/secrets/api_token").write_text("t0ken\n")
    (tmp_path / "labdock.yaml").write_text("login: {method: github, client_id: Iv1.a, admins: [mia]}\n")
    with in_a_thread(fake.running()):
        yield fake


def test_who_waits_is_listed_with_what_to_do(labdock: Command, hub: FakeHub) -> None:
    done = labdock("users", "list")
    assert "ada-l" in done.out
    assert "waiting" in done.out
    assert "`labdock users approve ada`" in done.out
    assert labdock("users", "list", "--json").facts == [ADA, OLD]


def test_people_are_approved_and_refused(labdock: Command, hub: FakeHub) -> None:
    assert labdock("users", "approve", "ada").out == "ada is let in.\n"
    assert "would: End the sessions" in labdock("users", "refuse", "ada", "--dry-run").out
    assert "ada is out." in labdock("users", "refuse", "ada", "--yes").out
    assert [path for _, path, _ in hub.asked] == ["users/ada/approve", "users/ada/refuse"]


def test_somebody_is_let_in_by_what_they_sign_in_as(labdock: Command, hub: FakeHub) -> None:
    done = labdock("users", "add", "Kim-L", "--as", "kim", "--admin")
    assert done.out == "Kim-L is let in: the first who signs in so becomes kim here, for good.\n"
    assert hub.asked == [("POST", "users", {"name": "Kim-L", "admin": True, "as": "kim"})]


def test_a_file_of_people_is_imported_and_may_be_again(
    labdock: Command, hub: FakeHub, tmp_path: Path
) -> None:
    (tmp_path / "people.csv").write_text("name,admin\nada-l,no\nkim,yes\nlee,\n")
    assert labdock("users", "import", "people.csv", "--dry-run").out == (
        "  would: Let kim in as administrator\n  would: Let lee in\n"
    )
    assert hub.asked == []
    done = labdock("users", "import", "people.csv")
    assert done.out == "kim: is let in\nlee: is let in\n2 let in, 1 were here already.\n"
    assert [body["admin"] for _, _, body in hub.asked] == [True, False]


def test_an_import_tells_people_by_what_they_sign_in_as_and_not_by_a_name_that_is_the_same(
    labdock: Command, hub: FakeHub, tmp_path: Path
) -> None:
    rows = ("ada@example.edu,", "ada-old,ada", "ada,", "olga,", "olga-gh,olga")
    (tmp_path / "people.csv").write_text("name,as\n" + "\n".join(rows) + "\n")
    labdock("users", "import", "people.csv")
    assert [(body["name"], body.get("as")) for _, _, body in hub.asked] == [
        ("ada", None),
        ("olga", None),
        ("olga-gh", "olga"),
    ]


def test_an_import_that_stops_says_where_and_how_to_go_on(
    labdock: Command, hub: FakeHub, tmp_path: Path
) -> None:
    (tmp_path / "people.csv").write_text("name\nkim\nbad\nlee\n")
    done = labdock("users", "import", "people.csv")
    assert done.code == 1
    assert "bad (line 3): There is already somebody called 'bad'" in done.err
    assert "1 of 3 were let in" in done.err
    (tmp_path / "people.csv").write_text("nmae\nkim\n")
    assert "Nobody was let in." in labdock("users", "import", "people.csv").err
    assert labdock("users", "import", "none.csv").code == 1


def test_a_secret_is_kept_for_labdock_alone_and_never_shown(labdock: Command, tmp_path: Path) -> None:
    assert [fact["set_at"] for fact in labdock("secret", "list", "--json").facts] == [None] * 3
    write_secret(tmp_path / "state", "client_secret", "s3cr3t-value\n")
    kept = tmp_path / "state/secrets/client_secret"
    assert kept.read_text() == "s3cr3t-value\n"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    listed = labdock("secret", "list")
    assert "s3cr3t" not in listed.out + listed.err
    assert labdock("secret", "list", "--json").facts[0]["set_at"].startswith("20")


@pytest.mark.parametrize("text", ["", "\n", "two\nlines", "x" * 1001])
def test_what_cannot_be_a_secret_is_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadRequestError, match="must be one line") as caught:
        write_secret(tmp_path, "client_secret", text)
    assert "two" not in str(caught.value)
    assert not (tmp_path / "secrets").exists()


def test_a_key_for_external_account_binding_is_base64(tmp_path: Path) -> None:
    for text in ("kid-1 zWNDZM6eQGHW", "zWND } respond hello {"):
        with pytest.raises(BadRequestError, match="is no key") as caught:
            write_secret(tmp_path, "acme_eab_key", text)
        assert "zWND" not in str(caught.value)
    write_secret(tmp_path, "acme_eab_key", "zWNDZM6eQGHWpSRT_Pal5-eI==\n")


def test_init_says_where_to_register_and_the_exact_callback(labdock: Command, tmp_path: Path) -> None:
    done = labdock(
        *("init", "--url", "http://127.0.0.1:8001/", "--login", "github", "--client-id", "Iv1.abc"),
        *("--admin", "mia"),
    )
    assert "Authorization callback URL: http://127.0.0.1:8001/hub/oauth_callback" in done.err
    assert "https://github.com/settings/applications/new" in done.err
    assert "secret set client_secret" in done.out
    text = (tmp_path / "labdock.yaml").read_text()
    assert "method: github" in text
    assert "client_id: Iv1.abc" in text


def test_init_without_anybody_who_administers_says_whom_to_name(labdock: Command, tmp_path: Path) -> None:
    done = labdock("init", "--login", "github", "--client-id", "Iv1.a")
    assert done.code == 1
    assert "Add --admin NAME, the name that they have at GitHub" in done.err
    assert not (tmp_path / "labdock.yaml").exists()
