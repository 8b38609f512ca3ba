"""What the tests of commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from labdock.cli.main import main
from tests.cli.commands import Command, Done


@pytest.fixture
def labdock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in an empty folder, on a machine without an engine, with no terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: PTH123, SIM115  lives as long as the test

    def run(*words: str) -> Done:
        monkeypatch.setattr("sys.argv", ["labdock", "--state", str(tmp_path / "state"), *words])
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = capsys.readouterr()
        return Done(code, printed.out, printed.err)

    return run
