"""A lab whose people sign in with a directory: a real OpenLDAP, reached from the hub's container."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from labdock.adapters.visitor import Visitor
from labdock.core.errors import LabdockError
from tests.providers.ldap import GROUPS, LOOKUP, PEOPLE, Ldap, running_ldap
from tests.providers.serving import Authority
from tests.stack import PASSWORD, Stack, bridge_address, make_stack, take_down

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, engine_socket: Path) -> Iterator[tuple[Stack, Ldap]]:
    folder = tmp_path_factory.mktemp("directory")
    stack, authority = make_stack(folder, engine_socket, "dir"), Authority()
    (folder / "ldap").mkdir()
    (folder / "authority.pem").write_text(authority.pem)
    with running_ldap(folder / "ldap", authority, bridge_address(engine_socket)) as directory:
        directory.add(f"cn=gpu,{GROUPS}", ["groupOfNames"], cn="gpu", member=LOOKUP)
        directory.join("Ada.L", PASSWORD, "gpu")
        directory.join("eve", PASSWORD)
        stack.config.write_text(
            f"""\
site: {{name: Test Lab, url: {stack.url}, contact: admin@lab.example}}
login:
  method: ldap
  server: {directory.url}
  authority: authority.pem
  label: the lab's directory
  admins: [mia]
  groups: [gpu]
  ldap: {{users: "{PEOPLE}", groups: "{GROUPS}", lookup_dn: "{LOOKUP}"}}
limits: {{cpus: 2, memory: 1G, shm: 256M, pids: 512}}
"""
        )
        try:
            yield stack, directory
        finally:
            take_down(stack)


def set_password(stack: Stack, text: str) -> None:
    command = stack.command("secret", "set", "ldap_password")
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_wrong_password_of_the_lookup_is_told_at_the_end_of_up(lab: tuple[Stack, Ldap]) -> None:
    stack, _ = lab
    set_password(stack, "not the password")
    done = stack.labdock("up")
    assert done.returncode == 1
    assert "Nobody can sign in: the lab's directory refuses" in done.stderr
    assert "`labdock secret set ldap_password`" in done.stderr
    assert "not the password" not in done.stdout + done.stderr


async def test_a_member_of_the_group_signs_in_and_runs_a_cell(lab: tuple[Stack, Ldap]) -> None:
    stack, directory = lab
    set_password(stack, directory.lookup_password)
    done = stack.labdock("up")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    (finding,) = [found for found in stack.facts("doctor") if found["check"] == "sign-in"]
    assert finding["ok"], finding
    async with Visitor.arrive(stack.url) as ada:
        await ada.sign_in("ada.l", PASSWORD)
        await ada.start(None)
        await ada.take_token()
        kernel = await ada.kernel()
        assert (await ada.run_cell(kernel, "!whoami")).strip() == "ada.l"
        await ada.stop()
    async with Visitor.arrive(stack.url) as eve:
        with pytest.raises(LabdockError, match="does not expect eve"):
            await eve.sign_in("eve", PASSWORD)
    log = stack.labdock("logs", "hub").stdout
    assert PASSWORD not in log
    assert directory.lookup_password not in log
