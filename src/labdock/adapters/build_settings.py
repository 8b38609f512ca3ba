"""What a build needs of this machine: certificates, package sources, proxies, settings of pip and others."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_PIP_KEYS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries")
_NPM_KEYS = ("registry", "proxy", "https-proxy", "noproxy", "strict-ssl")
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "ftp_proxy", "all_proxy")


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """*files* by path in the image, *arguments* of the build, the *mirror* for Debian or ""."""

    files: Mapping[str, bytes]
    arguments: Mapping[str, str]
    mirror: str
    with_passwords: tuple[str, ...]
    """Settings whose address carries a password; everybody with a session could read it."""


def read_build_settings(
    environment: Mapping[str, str], release: str, *, apt_folder: Path = Path("/etc/apt")
) -> BuildSettings:
    """This machine's settings for building on Debian *release*."""
    files: dict[str, bytes] = {}
    bundle = Path(environment.get("SSL_CERT_FILE", BUNDLE))
    if bundle.is_file():
        files[BUNDLE.lstrip("/")] = bundle.read_bytes()
    mirror, sources = _debian_sources(apt_folder, release)
    if sources:
        files["etc/apt/sources.list.d/debian.sources"] = sources.encode()
        files["etc/apt/sources.list"] = b"# See sources.list.d/debian.sources.\n"
    files |= _apt_proxies()
    pip, npm = read_pip_settings(), _npm_settings()
    certificates = f"cert = {BUNDLE}\n" if bundle.is_file() else ""
    files["etc/pip.conf"] = ("[global]\n" + certificates + _lines(pip, " = ")).encode()
    cafile = f"cafile={BUNDLE}\n" if bundle.is_file() else ""
    files["etc/npmrc"] = (cafile + _lines(npm, "=")).encode()
    files |= _conda_settings(environment)
    arguments = {
        name: value for name, value in environment.items() if name.lower() in _PROXY_VARIABLES and value
    }
    told = {
        **{f"pip {key}": value for key, value in pip.items()},
        **{f"npm {key}": value for key, value in npm.items()},
        **{
            f"/{path}": data.decode("utf-8", "replace")
            for path, data in files.items()
            if path.startswith(("etc/apt/", "etc/conda/"))
        },
    }
    return BuildSettings(
        files=files,
        arguments=arguments,
        mirror=mirror,
        with_passwords=tuple(sorted(name for name, value in told.items() if _has_password(value))),
    )


def _conda_settings(environment: Mapping[str, str]) -> dict[str, bytes]:
    """Where conda's packages come from: the person's own settings, otherwise the machine's."""
    home = environment.get("HOME", "")
    places = (*((Path(home) / ".condarc",) if home else ()), Path("/etc/conda/.condarc"))
    found = next((place for place in places if place.is_file()), None)
    return {} if found is None else {"etc/conda/.condarc": found.read_bytes()}


def _lines(settings: Mapping[str, str], equals: str) -> str:
    return "".join(f"{key}{equals}{value}\n" for key, value in sorted(settings.items()))


def _has_password(value: str) -> bool:
    return re.search(r"://[^/\s@]*:[^/\s@]+@", value) is not None


def _debian_sources(folder: Path, release: str) -> tuple[str, str]:
    """The mirror of this machine's Debian and the sources of *release* on it; ("", "") on other systems."""
    entries = [(_resolved(address), suite) for address, suite in _apt_entries(folder)]
    entries = [(address, suite) for address, suite in entries if address.startswith("http")]
    names = re.compile(r"bookworm|trixie|forky|stable|testing")
    candidates = [address for address, suite in entries if names.fullmatch(suite)]
    # Others use Debian's names for their own sources too; what has updates or ends like this is Debian.
    updated = {address for address, suite in entries if suite.endswith("-updates")}
    candidates.sort(key=lambda address: (address not in updated, not address.endswith("/debian")))
    archive = candidates[0] if candidates else ""
    secured = (address for address, suite in entries if re.fullmatch(r"\w+-security", suite))
    security = next((address for address in secured if "ubuntu" not in address), "")
    if not archive or "ubuntu" in archive:
        return "", ""
    places = [(archive, f"{release} {release}-updates")]
    if security:
        places.append((security, f"{release}-security"))
    stanzas = (
        f"Types: deb\nURIs: {address}\nSuites: {suites}\nComponents: main\nSigned-By: {_KEYRING}\n"
        for address, suites in places
    )
    return archive, "\n".join(stanzas)


def _apt_entries(folder: Path) -> list[tuple[str, str]]:
    """Address and suite of every binary source, of both formats, in the order apt reads them."""
    found: list[tuple[str, str]] = []
    lists = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*.list"))]
    for path in lists:
        text = path.read_text() if path.is_file() else ""
        for match in re.finditer(r"^deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)", text, re.MULTILINE):
            found.append((match[1].rstrip("/"), match[2]))
    for path in sorted((folder / "sources.list.d").glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text()):
            fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
            if "deb" in fields.get("Types", "").split():
                for address in fields.get("URIs", "").split():
                    found += [(address.rstrip("/"), suite) for suite in fields.get("Suites", "").split()]
    return found


def _resolved(address: str) -> str:
    """*address*, or the first one in the list of mirrors that it names, as cloud images do."""
    if not address.startswith("mirror+file:"):
        return address
    path = Path(re.sub("^mirror[+]file:/*", "/", address))
    lines = path.read_text().split() if path.is_file() else []
    return next((line.rstrip("/") for line in lines if line.startswith("http")), "")


def _output(*command: str) -> str:
    """What *command* prints, or "" where it is missing or fails: then there is nothing to hand on."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603  fixed words
    return done.stdout if done.returncode == 0 else ""


def _apt_proxies() -> dict[str, bytes]:
    wanted = re.compile(r'^Acquire::https?::Proxy "[^"]+";$')
    lines = [line for line in _output("apt-config", "dump").splitlines() if wanted.match(line)]
    return {"etc/apt/apt.conf.d/90labdock": "".join(f"{line}\n" for line in lines).encode()} if lines else {}


def read_pip_settings() -> dict[str, str]:
    """pip's settings of this machine that also hold inside an image; addresses of local folders do not."""
    found: dict[str, str] = {}
    for line in _output(sys.executable, "-m", "pip", "config", "list").splitlines():
        match = re.match(r"^[^.]+\.([a-z-]+)='(.*)'$", line)
        if match and match[1] in _PIP_KEYS:
            words = [
                word for word in match[2].replace("\\n", " ").split() if not word.startswith(("file:", "/"))
            ]
            if words:
                found[match[1]] = " ".join(words)
    return found


def _npm_settings() -> dict[str, str]:
    found = {key: _output("npm", "config", "get", key).strip() for key in _NPM_KEYS}
    return {key: value for key, value in found.items() if value and value not in {"null", "undefined"}}
