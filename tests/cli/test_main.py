"""The commands as they are typed: exit status, words on the right stream, facts as JSON."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from ruamel.yaml import YAML

from labdock import __version__
from labdock.adapters import host
from labdock.adapters.config_file import read_config
from labdock.cli.up import read_images
from labdock.core.config_docs import json_schema, reference_markdown
from labdock.core.errors import HostError
from labdock.core.lifecycle import FOLDERS
from tests.adapters.engines import WholeFakeEngine
from tests.cli.commands import Command, Done, in_a_thread
from tests.stack import free_port

# The package's function of the same name hides the module.
main_module = importlib.import_module("labdock.cli.main")

PEOPLE = [
    {
        "name": "ada",
        "login": "",
        "email": "",
        "full_name": "",
        "admin": True,
        "state": "active",
        "created_at": "2030-01-01T00:00:00Z",
        "last_activity": None,
        "session": "running",
    }
]
LINK = {"name": "ada", "link": "http://lab.example/hub/link/x", "expires_at": "2030-01-01T00:00:00Z"}


@pytest.fixture
def engine(labdock: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WholeFakeEngine]:
    """An engine that has nothing yet, for the commands to find."""
    fake = WholeFakeEngine(str(tmp_path / "engine.sock"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{fake.socket}")
    with in_a_thread(fake.running()):
        yield fake


class FakeHub:
    """Labdock's API of people; ``asked`` is what came, as method and path with the query."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.port = free_port()
        self.asked: list[str] = []
        self.home = "/srv/removed/ada-200001"

    @asynccontextmanager
    async def running(self) -> Any:
        app = web.Application()
        app.router.add_route("*", "/hub/api/labdock/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        await web.UnixSite(runner, str(self.socket)).start()
        yield self
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "token t0ken"
        self.asked.append(f"{request.method} {request.path_qs.removeprefix('/hub/api/labdock/')}")
        match request.method:
            case "GET":
                return web.json_response(PEOPLE)
            case "DELETE" if request.path.endswith("/second-factor"):
                return web.json_response({"name": "ada", "second_factor": False})
            case "DELETE":
                return web.json_response({"name": "ada", "home": self.home})
        if request.path.endswith("/nobody/reset"):
            return web.json_response({"message": "There is no account nobody."}, status=404)
        return web.json_response(LINK, status=201)


@pytest.fixture
def hub(labdock: Command, tmp_path: Path) -> Iterator[FakeHub]:
    """The hub of an instance that is up, for the commands to find."""
    fake = FakeHub(tmp_path / "state/run/edge/proxy.sock")
    fake.socket.parent.mkdir(parents=True)
    (tmp_path / "state/secrets").mkdir(parents=True)
    (tmp_path / "state/secrets/api_token").write_text("t0ken\n")
    (tmp_path / "labdock.yaml").write_text(f"site: {{url: http://127.0.0.1:{fake.port}}}\n")
    with in_a_thread(fake.running()):
        yield fake


def test_the_version_and_the_help_are_told(labdock: Command) -> None:
    assert labdock("--version") == Done(0, f"labdock, version {__version__}\n", "")
    assert "Set up and start everything" in labdock("--help").out


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("fly",),
        ("up", "--fast"),
        ("restart", "kernel"),
        ("logs", "--lines", "0"),
        ("users", "remove", "ada", "--home", "burn"),
        ("users", "add"),
        ("--instance", "Lab", "status"),
        ("--instance", "lab--2", "status"),
        ("--instance", "my-session", "status"),
        ("--instance", "a" * 31, "status"),
    ],
)
def test_a_command_that_is_written_wrong_ends_with_2_and_says_how(
    labdock: Command, words: tuple[str, ...]
) -> None:
    done = labdock(*words)
    assert done.code == 2
    assert "Usage: labdock" in done.err
    assert done.out == ""


def test_an_error_is_one_line_and_its_details_below(labdock: Command, tmp_path: Path) -> None:
    (tmp_path / "labdock.yaml").write_text("site: {nmae: Lab}\nlimits: {cpus: -1}\n")
    done = labdock("status")
    assert done.code == 1
    assert done.out == ""
    first, *details = done.err.splitlines()
    assert first.startswith(f"labdock: {tmp_path}/labdock.yaml has 2 problems.")
    assert len(details) == 2
    assert all(line.startswith(f"    {tmp_path}/labdock.yaml:") for line in details)


def test_with_verbose_an_error_shows_where_it_comes_from(labdock: Command) -> None:
    assert "Traceback" in labdock("--verbose", "users", "list").err
    assert "Traceback" not in labdock("users", "list").err


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, EOFError])
def test_an_interrupted_command_ends_with_1_and_one_line(
    labdock: Command, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
) -> None:
    def interrupt() -> str:
        raise interruption

    monkeypatch.setattr(main_module, "reference_markdown", interrupt)
    done = labdock("config", "docs")
    assert done.code == 1
    assert done.err.strip() == "Stopped. Run the command again to go on."


def test_a_mistake_of_ours_is_not_hidden(labdock: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down() -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(main_module, "reference_markdown", break_down)
    with pytest.raises(ZeroDivisionError):
        labdock("config", "docs")


def test_init_writes_what_its_flags_say_and_the_file_is_taken(labdock: Command, tmp_path: Path) -> None:
    done = labdock(
        *("init", "--name", "Vision Lab", "--url", "https://gpu.lab.example", "--listen", "0.0.0.0:443"),
        *(
            "--contact",
            "mia@lab.example",
            "--admin",
            "mia",
            "--admin",
            "carl",
            "--memory",
            "none",
            "--cpus",
            "2.5",
        ),
    )
    assert done.code == 0
    assert done.out.splitlines()[-1] == "Next: read it, then run `labdock up`."
    config = read_config(tmp_path / "labdock.yaml")
    assert (config.site.name, config.site.url, config.site.contact) == (
        "Vision Lab",
        "https://gpu.lab.example",
        "mia@lab.example",
    )
    assert str(config.site.listen) == "0.0.0.0:443"
    assert config.login.admins == ("mia", "carl")
    assert (config.limits.memory_bytes, config.limits.cpus) == (None, 2.5)


def test_init_offers_pytorch_on_a_machine_with_cards(
    labdock: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "nvidia_folders", lambda: ("/usr",))
    assert labdock("init").code == 0
    torch, cpu = read_config(tmp_path / "labdock.yaml").images
    assert (torch.base, torch.default, cpu.base, cpu.default) == ("builtin/torch", True, "builtin/cpu", False)


def test_init_asks_nothing_where_nobody_can_answer(labdock: Command, tmp_path: Path) -> None:
    assert labdock("init").code == 0
    assert labdock("config", "check") == Done(0, "labdock.yaml is fine. Next: `labdock up`.\n", "")


def test_init_leaves_a_file_that_exists_alone_unless_forced(labdock: Command, tmp_path: Path) -> None:
    (tmp_path / "labdock.yaml").write_text("# mine\n")
    done = labdock("init", "--yes")
    assert done.code == 1
    assert "exists already" in done.err
    assert (tmp_path / "labdock.yaml").read_text() == "# mine\n"
    assert labdock("init", "--yes", "--force", "--admin", "mia").code == 0
    assert read_config(tmp_path / "labdock.yaml").login.admins == ("mia",)


def test_init_shows_what_it_would_write(labdock: Command, tmp_path: Path) -> None:
    done = labdock("init", "--dry-run", "--admin", "mia")
    assert YAML(typ="safe", pure=True).load(done.out)["login"] == {"admins": ["mia"]}
    assert list(tmp_path.iterdir()) == []


def test_init_with_values_that_make_no_sense_writes_nothing(labdock: Command, tmp_path: Path) -> None:
    done = labdock("init", "--memory", "banana", "--admin", "Bad Name")
    assert done.code == 1
    assert '"banana" is not a size' in done.err
    assert '"Bad Name" is not what somebody is called' in done.err
    assert not (tmp_path / "labdock.yaml").exists()


def test_check_tells_every_problem_as_facts_too(labdock: Command, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("site: {nmae: Lab}\nlimits: {cpus: -1}\n")
    done = labdock("config", "check", "other.yaml", "--json")
    assert done.code == 1
    assert done.facts["ok"] is False
    assert done.facts["file"] == "other.yaml"
    assert [problem["line"] for problem in done.facts["problems"]] == [1, 2]
    (tmp_path / "other.yaml").write_text("site: {name: Lab}\n")
    assert labdock("config", "check", "other.yaml", "--json").facts == {
        "file": "other.yaml",
        "ok": True,
        "problems": [],
    }


@pytest.mark.parametrize(
    "words", [("config", "check", "none.yaml"), ("--config", "none.yaml", "config", "show")]
)
def test_a_file_that_is_not_there_is_told_with_how_to_make_one(
    labdock: Command, words: tuple[str, ...]
) -> None:
    done = labdock(*words)
    assert done.code == 1
    assert "labdock init" in done.err


def test_show_tells_every_setting_that_holds_and_can_be_used_as_a_file(
    labdock: Command, tmp_path: Path
) -> None:
    (tmp_path / "labdock.yaml").write_text("site: {name: Vision Lab}\nlimits: {memory: 16G}\n")
    facts = labdock("config", "show", "--json").facts
    assert (facts["site"]["name"], facts["site"]["url"]) == ("Vision Lab", "http://127.0.0.1:8000")
    (tmp_path / "shown.yaml").write_text(labdock("config", "show").out)
    assert read_config(tmp_path / "shown.yaml") == read_config(tmp_path / "labdock.yaml")


def test_docs_and_schema_are_printed_as_they_are(labdock: Command) -> None:
    assert labdock("config", "docs").out == reference_markdown()
    assert labdock("config", "schema").facts == json_schema()


def test_a_plan_is_shown_and_nothing_is_done(
    labdock: Command, engine: WholeFakeEngine, tmp_path: Path
) -> None:
    done = labdock("up", "--dry-run")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == "  would: Get Debian to build on"
    assert "  would: Start agent, proxy, packages, hub, edge" in lines
    # People can sign in while a large image is still being built.
    assert lines[-1] == "  would: Publish the image cpu"
    assert f"  would: Build the image {read_images().base.tag}" in lines
    assert not (tmp_path / "state").exists()
    assert engine.by_id == {}


def test_a_plan_as_facts_has_the_same_steps(labdock: Command, engine: WholeFakeEngine) -> None:
    steps = labdock("up", "--dry-run", "--json").facts
    assert {step["text"] for step in steps} == {
        line.removeprefix("  would: ") for line in labdock("up", "--dry-run").out.splitlines()
    }
    made = [step["subject"] for step in steps if step["act"] == "make-folder"]
    assert made == [folder.path for folder in FOLDERS]


def test_without_an_engine_the_plan_begins_with_one(labdock: Command, tmp_path: Path) -> None:
    done = labdock("up", "--dry-run", "--json")
    assert done.code == 0
    assert [step["act"] for step in done.facts][-1] == "start-engine"
    assert "needs an engine that answers" in done.err
    assert not (tmp_path / "state").exists()


def test_a_full_disk_is_told_before_anything_is_done(
    labdock: Command, engine: WholeFakeEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "labdock.yaml").write_text(f"site: {{url: http://127.0.0.1:{free_port()}}}\n")
    monkeypatch.setattr("labdock.adapters.host.free_bytes", lambda path: 2**30)
    done = labdock("up", "--yes")
    assert done.code == 1
    assert done.err.startswith("labdock: 1.0 GiB are free")
    assert "3 GiB" in done.err
    assert [path.name for path in (tmp_path / "state").iterdir()] == [".lock"]


@pytest.mark.parametrize("path", ["state", "state/secrets", "."])
def test_a_shared_folder_that_holds_secrets_is_refused(
    labdock: Command, engine: WholeFakeEngine, tmp_path: Path, path: str
) -> None:
    (tmp_path / "state/secrets").mkdir(parents=True)
    folder = (tmp_path / path).resolve()
    (tmp_path / "labdock.yaml").write_text(
        f"site: {{url: http://127.0.0.1:{free_port()}}}\n"
        f"storage: {{shared: [{{name: data, path: {folder}}}]}}\n"
    )
    done = labdock("up", "--yes")
    assert done.code == 1
    assert "overlap" in done.err


def test_a_shared_folder_that_is_missing_is_told(
    labdock: Command, engine: WholeFakeEngine, tmp_path: Path
) -> None:
    (tmp_path / "labdock.yaml").write_text(
        f"site: {{url: http://127.0.0.1:{free_port()}}}\n"
        f"storage: {{shared: [{{name: data, path: {tmp_path}/none}}]}}\n"
    )
    done = labdock("up", "--yes")
    assert done.code == 1
    assert "'data'" in done.err
    assert "is not there" in done.err


def test_down_of_nothing_says_so(labdock: Command, engine: WholeFakeEngine) -> None:
    assert labdock("down") == Done(0, "Nothing to do.\n", "")
    assert labdock("down", "--all", "--json").facts == []


@pytest.fixture
def containers(engine: WholeFakeEngine) -> WholeFakeEngine:
    """An engine on which a hub and ada's session run."""
    for name, role, labels in (
        ("labdock-hub", "part", {"org.labdock.part": "hub"}),
        ("labdock-session-ada", "session", {"org.labdock.person": "ada", "org.labdock.image": "cpu"}),
    ):
        own = {"org.labdock.instance": "labdock", "org.labdock.role": role, **labels}
        engine.add(name, {"Labels": own, "Image": "x:1", "Cmd": []}).state = "running"
    return engine


def test_down_asks_first_and_where_nobody_can_answer_it_refuses(
    labdock: Command, containers: WholeFakeEngine
) -> None:
    done = labdock("down")
    assert done.code == 2
    assert "add --yes" in done.err
    assert len(containers.by_id) == 2


def test_down_shows_its_plan(labdock: Command, containers: WholeFakeEngine) -> None:
    assert labdock("down", "--dry-run").out == "  would: Stop and remove labdock-hub\n"
    acts = [step["act"] for step in labdock("down", "--all", "--dry-run", "--json").facts]
    assert acts == ["stop-session", "remove-parts", "remove-networks"]
    assert len(containers.by_id) == 2


def test_down_keeps_sessions_unless_all_are_meant(
    labdock: Command, containers: WholeFakeEngine, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    assert labdock("down", "--yes", "--json").facts == {"stopped": ["labdock-hub"]}
    assert [one.name for one in containers.by_id.values()] == ["labdock-session-ada"]
    done = labdock("down", "--yes", "--all")
    assert done.code == 0
    assert "Homes, accounts and settings are kept" in done.out
    assert containers.by_id == {}


def test_status_ends_with_1_when_a_part_is_missing_and_tells_which(
    labdock: Command, containers: WholeFakeEngine
) -> None:
    done = labdock("status", "--json")
    assert done.code == 1
    assert done.facts["ok"] is False
    assert {part["part"]: part["status"] for part in done.facts["parts"]} == {
        "agent": "not there",
        "proxy": "not there",
        "packages": "not there",
        "hub": "running",
        "edge": "not there",
    }
    assert done.facts["sessions"] == [
        {"person": "ada", "container": "labdock-session-ada", "image": "cpu", "status": "running"}
    ]
    text = labdock("status")
    assert text.code == 1
    assert "labdock-session-ada" in text.out
    assert "labdock doctor" in text.out


def test_restart_tells_what_it_would_do_and_that_a_part_does_not_run(
    labdock: Command, engine: WholeFakeEngine, tmp_path: Path
) -> None:
    assert labdock("restart", "hub", "--dry-run").out == "  would: Restart hub\n"
    done = labdock("restart", "hub")
    assert done.code == 1
    assert "There is no Labdock in" in done.err
    (tmp_path / "state").mkdir(exist_ok=True)
    record = {"instance": "labdock", "subnet": "10.213.0.0/20", "config": "", "storage": "/x"}
    (tmp_path / "state/instance.json").write_text(json.dumps(record))
    done = labdock("restart", "hub")
    assert done.code == 1
    assert done.err.startswith("labdock: The part hub does not run. `labdock up` starts it.")


def test_an_engine_elsewhere_is_refused(labdock: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://other.example:2375")
    done = labdock("status")
    assert done.code == 1
    assert "DOCKER_HOST is tcp://other.example:2375." in done.err


def test_the_state_of_another_instance_is_left_alone(labdock: Command, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    record = {"instance": "lab-1", "subnet": "10.213.0.0/20", "config": "", "storage": "/x"}
    (tmp_path / "state/instance.json").write_text(json.dumps(record))
    done = labdock("--instance", "lab-2", "status")
    assert done.code == 1
    assert "belongs to the instance 'lab-1', not 'lab-2'" in done.err


@pytest.mark.parametrize("text", ["", "[1]", '{"instance": "x"}', "{"])
def test_a_damaged_record_is_told_and_not_replaced(labdock: Command, tmp_path: Path, text: str) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/instance.json").write_text(text)
    done = labdock("up", "--yes")
    assert done.code == 1
    assert "instance.json is damaged" in done.err
    assert (tmp_path / "state/instance.json").read_text() == text


def test_doctor_tells_what_is_wrong_and_the_way_out(labdock: Command) -> None:
    done = labdock("doctor", "--json")
    assert done.code == 1
    engine = next(finding for finding in done.facts if finding["check"] == "engine")
    assert engine["ok"] is False
    assert "nobody answers" in engine["seen"]
    assert "labdock up" in engine["fix"]
    text = labdock("doctor")
    assert text.code == 1
    assert "✗ engine: nobody answers" in text.out


def test_doctor_tells_a_broken_configuration_instead_of_failing_on_it(
    labdock: Command, tmp_path: Path
) -> None:
    (tmp_path / "labdock.yaml").write_text("site: {nmae: Lab}\n")
    done = labdock("doctor", "--json")
    assert done.code == 1
    assert done.facts[-1]["check"] == "configuration"
    assert "nmae" in done.facts[-1]["seen"]


def test_before_the_first_up_there_is_nobody_to_ask_for_people(labdock: Command) -> None:
    done = labdock("users", "list")
    assert done.code == 1
    assert "There is no Labdock in" in done.err
    assert "`labdock up`" in done.err


def test_an_invitation_is_printed_with_its_link(labdock: Command, hub: FakeHub) -> None:
    done = labdock("users", "add", "ada", "--admin")
    assert done.code == 0
    assert LINK["link"] in done.out
    assert LINK["expires_at"] in done.out
    assert labdock("users", "add", "ada", "--json").facts == LINK
    assert hub.asked == ["POST users", "POST users"]


def test_people_are_listed(labdock: Command, hub: FakeHub) -> None:
    assert labdock("users", "list", "--json").facts == PEOPLE
    heading, ada = labdock("users", "list").out.splitlines()
    assert heading.split() == ["Name", "Administrator", "State", "Session", "Last", "seen"]
    assert ada.split() == ["ada", "yes", "active", "running", "never"]


def test_a_lost_second_factor_is_taken_away_and_no_link_is_made(labdock: Command, hub: FakeHub) -> None:
    done = labdock("users", "reset", "ada", "--second-factor")
    assert done == Done(0, "ada signs in with the password alone now.\n", "")
    assert hub.asked == ["DELETE users/ada/second-factor"]


def test_a_reset_link_is_printed_and_a_refusal_told_in_the_hubs_words(labdock: Command, hub: FakeHub) -> None:
    assert LINK["link"] in labdock("users", "reset", "ada").out
    done = labdock("users", "reset", "nobody")
    assert done == Done(1, "", "labdock: There is no account nobody.\n")


def test_nobody_is_removed_before_it_is_said_what_becomes_of_the_home(labdock: Command, hub: FakeHub) -> None:
    for words in ((), ("--yes",)):
        done = labdock("users", "remove", "ada", *words)
        assert done.code == 2
        assert "--home keep or --home delete" in done.err
    assert labdock("users", "remove", "ada", "--home", "delete", "--dry-run").out.startswith(
        "  would: End the"
    )
    assert labdock("users", "remove", "ada", "--home", "delete").code == 2
    assert hub.asked == []


@pytest.mark.parametrize(
    ("home", "now_at", "words"),
    [
        ("keep", "/srv/removed/ada-200001", "The home is kept in /srv/removed/ada-200001."),
        ("keep", "", "There was no home."),
        ("delete", "", "The home is deleted."),
    ],
)
def test_a_removal_tells_what_became_of_the_home(
    labdock: Command, hub: FakeHub, home: str, now_at: str, words: str
) -> None:
    hub.home = now_at
    done = labdock("users", "remove", "ada", "--home", home, "--yes")
    assert done == Done(0, f"ada is removed. {words}\n", "")
    assert hub.asked == [f"DELETE users/ada?home={home}"]


def test_verify_that_fails_ends_with_1_and_the_cause(labdock: Command, hub: FakeHub) -> None:
    done = labdock("verify", "--json")
    assert done.code == 1
    assert done.facts["ok"] is False
    failed = next(step for step in done.facts["steps"] if not step["ok"])
    assert failed["step"].startswith("Open the invitation")
    assert failed["cause"]
    assert done.facts["steps"][-1]["step"].startswith("Remove verify-")


def test_every_error_of_ours_is_caught_at_the_edge(labdock: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise HostError("It is so.", fix="Do this.", details=("one", "two"))

    monkeypatch.setattr(main_module, "reference_markdown", fail)
    assert labdock("config", "docs") == Done(1, "", "labdock: It is so. Do this.\n    one\n    two\n")
