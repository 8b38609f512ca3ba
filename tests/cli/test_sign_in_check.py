"""What `labdock doctor` says of how people sign in."""

from __future__ import annotations

from pathlib import Path

from labdock.cli.instance import Chosen, Instance, find_instance
from labdock.cli.sign_in_check import look_at_sign_in, sign_in_problem
from tests.providers.github import GitHub
from tests.providers.serving import Authority, serving


def instance(folder: Path, login: str) -> Instance:
    config = folder / "labdock.yaml"
    config.write_text(f"site: {{url: https://gpu.example.edu, https: internal}}\nlogin: {login}\n")
    return find_instance(Chosen(folder / "state", "ldtestp-doctor", config), {"HOME": str(folder)})


def test_local_accounts_have_nobody_to_ask(tmp_path: Path) -> None:
    assert look_at_sign_in(instance(tmp_path, "{admins: [mia]}")) == []


def test_a_missing_and_a_wrong_secret_are_told_and_the_right_one_is_fine(tmp_path: Path) -> None:
    authority = Authority()
    (tmp_path / "authority.pem").write_text(authority.pem)
    with serving(GitHub(), authority, tmp_path) as github:
        application = github.register("https://gpu.example.edu/hub/oauth_callback")
        login = (
            f"{{method: github, admins: [mia], client_id: {application.client_id}, "
            f"server: '{github.url}', authority: authority.pem}}"
        )
        here = instance(tmp_path, login)
        (finding,) = look_at_sign_in(here)
        assert (finding.ok, finding.seen) == (False, "the secret client_secret is not set")

        secrets = here.state / "secrets"
        secrets.mkdir(parents=True)
        (secrets / "client_secret").write_text("wrong\n")
        problem = sign_in_problem(here)
        assert problem is not None
        assert "refuses the client secret" in str(problem)

        (secrets / "client_secret").write_text(application.secret + "\n")
        (finding,) = look_at_sign_in(here)
        assert finding.ok, finding
        assert sign_in_problem(here) is None
