"""What an image build is given of this machine: certificates, sources, pip, npm, proxies."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from labdock.adapters.build_settings import BuildSettings, read_build_settings

BUNDLE = "etc/ssl/certs/ca-certificates.crt"
SOURCES = "etc/apt/sources.list.d/debian.sources"
MIRROR = "http://mirror.lab.example/debian"

PLAIN = f"""\
Types: deb deb-src
# What the machine was made from:
URIs: {MIRROR}
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: {MIRROR}-security/
Suites: bookworm-security
Components: main
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that is searched for programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    for name in ("npm", "apt-config", "pip-config"):
        program(folder, name, "")
    # pip is asked for as a module of this Python.
    monkeypatch.setattr(sys, "executable", str(folder / "pip-config"))
    return folder


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    folder = tmp_path / "apt"
    (folder / "sources.list.d").mkdir(parents=True)
    return folder


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def settings(apt: Path, **environment: str) -> BuildSettings:
    return read_build_settings({"SSL_CERT_FILE": "/none", **environment}, "trixie", apt_folder=apt)


def sources(found: BuildSettings) -> list[tuple[str, str]]:
    """Address and suites of every stanza that a build is given."""
    lines = [line.partition(": ") for line in found.files.get(SOURCES, b"").decode().splitlines()]
    addresses = [value for key, _, value in lines if key == "URIs"]
    return list(zip(addresses, [value for key, _, value in lines if key == "Suites"], strict=True))


def test_a_machine_without_settings_hands_on_nothing_but_empty_files(apt: Path, programs: Path) -> None:
    assert settings(apt) == BuildSettings({"etc/pip.conf": b"[global]\n", "etc/npmrc": b""}, {}, "", ())


def test_the_machines_certificates_are_handed_on_and_used(apt: Path, programs: Path, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(b"certificate")
    files = settings(apt, SSL_CERT_FILE=str(tmp_path / "ca.pem")).files
    assert files[BUNDLE] == b"certificate"
    assert files["etc/pip.conf"] == f"[global]\ncert = /{BUNDLE}\n".encode()
    assert files["etc/npmrc"] == f"cafile=/{BUNDLE}\n".encode()


def test_the_machines_mirror_serves_the_release_of_the_image(apt: Path, programs: Path) -> None:
    (apt / "sources.list.d/debian.sources").write_text(PLAIN)
    found = settings(apt)
    assert found.mirror == MIRROR
    assert sources(found) == [
        (MIRROR, "trixie trixie-updates"),
        (f"{MIRROR}-security", "trixie-security"),
    ]


def test_the_one_line_format_is_read_too(apt: Path, programs: Path) -> None:
    (apt / "sources.list").write_text(
        f"# deb http://old.lab.example/debian bookworm main\ndeb-src {MIRROR} bookworm main\n"
        f"deb [arch=amd64 signed-by=/x.gpg] {MIRROR}/ bookworm main\n"
        f"deb {MIRROR}-security bookworm-security main\n"
    )
    assert sources(settings(apt)) == [
        (MIRROR, "trixie trixie-updates"),
        (f"{MIRROR}-security", "trixie-security"),
    ]


@pytest.mark.parametrize(
    "other",
    [
        "deb https://engine.lab.example/linux/debian bookworm stable",
        "deb [arch=amd64] https://browser.lab.example/chrome/deb/ stable main",
    ],
)
def test_the_source_of_another_vendor_is_not_taken_for_debian(apt: Path, programs: Path, other: str) -> None:
    (apt / "sources.list.d/aaa.list").write_text(f"{other}\n")
    (apt / "sources.list.d/debian.sources").write_text(PLAIN)
    assert settings(apt).mirror == MIRROR


def test_a_list_of_mirrors_as_cloud_images_have_it_is_followed(
    apt: Path, programs: Path, tmp_path: Path
) -> None:
    (tmp_path / "mirrors.list").write_text(f"# chosen\n{MIRROR}/\nhttp://second.lab.example/debian\n")
    address = f"mirror+file://{tmp_path}/mirrors.list"
    (apt / "sources.list.d/debian.sources").write_text(PLAIN.replace(MIRROR, address, 1))
    assert settings(apt).mirror == MIRROR


@pytest.mark.parametrize(
    "text",
    [
        "deb http://archive.ubuntu.lab.example/ubuntu noble main\n",
        "deb http://ubuntu.lab.example/ubuntu stable main\n",
        "deb file:/media/disc bookworm main\n",
        "deb mirror+file:/none/mirrors.list bookworm main\n",
        "deb cdrom:[Debian GNU/Linux 12]/ bookworm main\n",
    ],
)
def test_a_machine_whose_sources_would_not_work_in_the_image_hands_on_none(
    apt: Path, programs: Path, text: str
) -> None:
    (apt / "sources.list").write_text(text)
    found = settings(apt)
    assert found.mirror == ""
    assert not [path for path in found.files if path.startswith("etc/apt")]


def test_only_the_proxies_of_apt_are_handed_on(apt: Path, programs: Path) -> None:
    program(
        programs,
        "apt-config",
        "echo 'Acquire::http::Proxy \"http://proxy.lab.example:3142\";'; echo 'APT::Architecture \"amd64\";'",
    )
    assert settings(apt).files["etc/apt/apt.conf.d/90labdock"] == (
        b'Acquire::http::Proxy "http://proxy.lab.example:3142";\n'
    )


def test_the_settings_of_pip_are_handed_on_except_what_only_this_machine_has(
    apt: Path, programs: Path
) -> None:
    program(
        programs,
        "pip-config",
        """cat <<'END'
global.index-url='https://packages.lab.example/simple'
global.extra-index-url='https://a.example/simple\\nfile:///srv/x\\nhttps://b.example/simple'
global.cert='/etc/own.pem'
global.find-links='/srv/wheels'
install.trusted-host='packages.lab.example'
:env:.timeout='60'
END""",
    )
    assert settings(apt).files["etc/pip.conf"].decode() == (
        "[global]\n"
        "extra-index-url = https://a.example/simple https://b.example/simple\n"
        "index-url = https://packages.lab.example/simple\n"
        "timeout = 60\n"
        "trusted-host = packages.lab.example\n"
    )


def test_the_settings_of_npm_are_handed_on_where_they_are_set(apt: Path, programs: Path) -> None:
    program(
        programs,
        "npm",
        'case "$3" in registry) echo https://npm.lab.example/;; strict-ssl) echo true;; *) echo null;; esac',
    )
    assert settings(apt).files["etc/npmrc"] == b"registry=https://npm.lab.example/\nstrict-ssl=true\n"


def test_where_conda_has_its_packages_from_is_handed_on(apt: Path, programs: Path, tmp_path: Path) -> None:
    (tmp_path / ".condarc").write_text("channel_alias: https://lab:secret@conda.lab.example\n")
    found = settings(apt, HOME=str(tmp_path))
    assert b"conda.lab.example" in found.files["etc/conda/.condarc"]
    assert "/etc/conda/.condarc" in found.with_passwords
    assert "etc/conda/.condarc" not in settings(apt).files or Path("/etc/conda/.condarc").exists()


def test_a_program_that_fails_has_no_settings(apt: Path, programs: Path) -> None:
    program(programs, "npm", "echo broken; exit 1")
    program(programs, "pip-config", "echo global.index-url=\\'https://x.example\\'; exit 2")
    files = settings(apt).files
    assert (files["etc/pip.conf"], files["etc/npmrc"]) == (b"[global]\n", b"")


def test_a_program_that_is_missing_has_no_settings(
    apt: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(apt))
    (programs / "pip-config").unlink()
    assert settings(apt).files == {"etc/pip.conf": b"[global]\n", "etc/npmrc": b""}


def test_proxy_variables_are_the_only_ones_handed_on(apt: Path, programs: Path) -> None:
    found = settings(apt, HTTPS_PROXY="http://p.example", no_proxy="a,b", http_proxy="", TOKEN="x")
    assert found.arguments == {"HTTPS_PROXY": "http://p.example", "no_proxy": "a,b"}


def test_an_address_with_a_password_is_named_wherever_it_comes_from(apt: Path, programs: Path) -> None:
    with_password = "https://ada:pass@packages.lab.example"
    program(programs, "pip-config", f"echo \"global.index-url='{with_password}/simple'\"")
    program(programs, "npm", f'[ "$3" = registry ] && echo {with_password}/npm || echo null')
    program(programs, "apt-config", f"echo 'Acquire::http::Proxy \"{with_password}\";'")
    (apt / "sources.list").write_text(f"deb {with_password}/debian bookworm main\n")
    assert settings(apt).with_passwords == (
        "/etc/apt/apt.conf.d/90labdock",
        f"/{SOURCES}",
        "npm registry",
        "pip index-url",
    )


def test_an_address_with_a_name_or_a_port_alone_holds_no_password(apt: Path, programs: Path) -> None:
    program(
        programs, "pip-config", "echo \"global.index-url='https://ada@packages.lab.example:8080/simple'\""
    )
    assert settings(apt).with_passwords == ()
