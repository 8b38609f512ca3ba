"""What pip's settings in the image mean for the part."""

from __future__ import annotations

from pathlib import Path

import pytest

from labdock.core.errors import HostError
from labdock.packages.source import Source, SourceSession, read_source


def source(tmp_path: Path, text: str) -> Source:
    file = tmp_path / "pip.conf"
    file.write_text(text)
    return read_source(file)


def test_without_settings_it_is_what_pip_does_by_itself(tmp_path: Path) -> None:
    assert read_source(tmp_path / "none") == Source() == source(tmp_path, "")
    assert source(tmp_path, "[global]\n") == Source()


def test_the_machines_own_index_certificates_and_proxy_are_used(tmp_path: Path) -> None:
    text = """\
[global]
cert = /etc/ssl/certs/ca-certificates.crt
extra-index-url = https://more.lab.example/simple
index-url = https://lab:s3%40cret@mirror.lab.example:8443/root/pypi/+simple
proxy = http://proxy.lab.example:3128
trusted-host = mirror.lab.example other.example:99
timeout = 60
"""
    assert source(tmp_path, text) == Source(
        index_url="https://mirror.lab.example:8443/root/pypi/+simple/",
        user="lab",
        password="s3@cret",
        certificates="/etc/ssl/certs/ca-certificates.crt",
        proxy="http://proxy.lab.example:3128",
        trusted=("mirror.lab.example", "other.example:99"),
    )


@pytest.mark.parametrize("text", ["[global\n", "index-url = x\n", "[global]\nindex-url = /opt/simple\n"])
def test_settings_that_cannot_be_used_are_one_clear_message(tmp_path: Path, text: str) -> None:
    with pytest.raises(HostError, match=r"pip\.conf"):
        source(tmp_path, text)


def test_certificates_are_looked_at_but_for_hosts_that_pip_trusts() -> None:
    session = SourceSession(Source(trusted=("mirror.lab.example", "other.example:99")))

    def trusting(url: str) -> bool:
        return type(session.get_adapter(url)).__name__ == "_Trusting"

    assert trusting("https://mirror.lab.example/x")
    assert trusting("https://mirror.lab.example:8443/x")
    assert trusting("https://other.example:99/x")
    assert not trusting("https://other.example/x")
    assert not trusting("https://mirror.lab.example.evil.example/x")
    assert not trusting("https://elsewhere.example/simple/")
