"""Fetches micromamba once, from the conda-forge channel, and becomes it.

It is not in the image because only conda's channels have it: a lab that uses none needs none to build.
"""

from __future__ import annotations

import bz2
import errno
import hashlib
import http.client
import io
import json
import os
import platform
import re
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

DEFAULT_ALIAS = "https://conda.anaconda.org"
CHANNEL = "conda-forge"
ARCHITECTURES = {"x86_64": "linux-64", "aarch64": "linux-aarch64", "ppc64le": "linux-ppc64le"}
FOR_ALL = Path(os.environ.get("LABDOCK_BIN", "/usr/local/lib/labdock/bin"))
"""Where root keeps it, for everybody who uses the image."""

TIMEOUT_S = 60
LARGEST_BYTES = 200 * 2**20
"""More than any list of packages or micromamba; an answer beyond it is no such thing."""


class Failed(Exception):  # noqa: N818  it is what happened, and not always an error of anybody's
    """micromamba cannot be had; the text says why, and what to do about it, in one line."""


def home() -> Path:
    return Path("~").expanduser()


def channel_alias(environment: Mapping[str, str], files: Iterable[Path]) -> str:
    """The address below which channels are: the environment's word, or that of the first file with one."""
    if told := environment.get("CONDA_CHANNEL_ALIAS"):
        return told.rstrip("/")
    for path in files:
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        if match := re.search(r"""^channel_alias:\s*["']?([^\s"'#]+)""", text, re.MULTILINE):
            return match[1].rstrip("/")
    return DEFAULT_ALIAS


def settings_files() -> tuple[Path, ...]:
    return (home() / ".condarc", home() / ".mambarc", Path("/etc/conda/.condarc"))


def fetched(address: str) -> bytes:
    """What *address* answers.

    Raises:
        FileNotFoundError: The server has no such file.
        Failed: There is no answer, or not all of it.
    """
    way_out = "Try again later; a mirror is set by channel_alias in ~/.condarc."
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:  # noqa: S310  as the person set it
            data: bytes = answer.read(LARGEST_BYTES + 1)
    except urllib.error.HTTPError as error:
        if error.code == http.client.NOT_FOUND:
            raise FileNotFoundError(errno.ENOENT, "no such file", address) from error
        raise Failed(f"{address} answers {error.code} {error.reason}. {way_out}") from error
    except (urllib.error.URLError, OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise Failed(f"the conda channel {address} does not answer ({reason}). {way_out}") from error
    if len(data) > LARGEST_BYTES:
        raise Failed(f"{address} is larger than {LARGEST_BYTES >> 20} MiB. Is it the right address?")
    return data


def read_index(folder: str) -> dict[str, Any]:
    """The channel's list of packages below *folder*; the short one, where there is one."""
    for name in ("current_repodata.json", "repodata.json"):
        try:
            index = json.loads(fetched(f"{folder}/{name}"))
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise Failed(f"{folder}/{name} is damaged ({error}). Try again later.") from error
        if isinstance(index, dict):
            return index
    raise Failed(f"there is no conda channel at {folder}. Look at channel_alias in ~/.condarc.")


def newest(index: Mapping[str, Any], folder: str) -> tuple[str, Mapping[str, Any]]:
    """File name and facts of the newest micromamba in *index* that the standard library can unpack."""
    found = [
        (name, facts)
        for name, facts in index.get("packages", {}).items()
        if facts.get("name") == "micromamba" and name.endswith(".tar.bz2") and "/" not in name
    ]
    if found:
        return max(found, key=lambda one: (as_numbers(one[1]["version"]), one[1].get("build_number", 0)))
    others = index.get("packages.conda", {}).values()
    if any(facts.get("name") == "micromamba" for facts in others):
        raise Failed(
            f"{folder} has micromamba as .conda only, which Python cannot unpack here. "
            "Ask the administrator to put micromamba into the image."
        )
    raise Failed(
        f"{folder} has no micromamba for this machine. Ask the administrator for a channel that has."
    )


def as_numbers(version: str) -> tuple[tuple[int, int, str], ...]:
    """*version* as something that sorts as versions do; a word such as "rc" stands before the end."""
    parts = re.findall(r"\d+|[a-z]+", version.lower())
    numbers = ((2, int(part), "") if part.isdigit() else (0, 0, part) for part in parts)
    return (*numbers, (1, 0, ""))


def checked(data: bytes, facts: Mapping[str, Any], address: str) -> bytes:
    """*data*, which is what the channel's list says it is."""
    digest = hashlib.sha256(data).hexdigest()
    size, wanted = facts.get("size", len(data)), str(facts.get("sha256"))
    if (len(data), digest) != (size, wanted):
        raise Failed(
            f"{address} is damaged: {len(data)} bytes with SHA-256 {digest[:12]}…, "
            f"and the channel's list says {size} bytes with {wanted[:12]}…. Try again later."
        )
    return data


def program_in(package: bytes, address: str) -> bytes:
    """The program in a ``.tar.bz2`` package; nothing else of it is unpacked."""
    try:
        with tarfile.open(fileobj=io.BytesIO(bz2.decompress(package))) as archive:
            file = archive.extractfile("bin/micromamba")
            data = file.read() if file else b""
    except (OSError, ValueError, EOFError, KeyError, tarfile.TarError) as error:
        raise Failed(f"{address} cannot be unpacked ({error}). Try again later.") from error
    if not data:
        raise Failed(f"{address} has no program in it. Ask the administrator for another channel.")
    return data


def put(program: bytes, path: Path) -> None:
    """Keep *program* at *path*, whole or not at all, whoever else does the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(program)
        beside.chmod(0o755)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def fetch(path: Path) -> None:
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise Failed(f"conda-forge has no micromamba for {machine}. Use labdock-env, which works everywhere.")
    alias = channel_alias(os.environ, settings_files())
    folder = f"{alias}/{CHANNEL}/{ARCHITECTURES[machine]}"
    print(f"micromamba: fetching it from {folder}, this once", file=sys.stderr)
    name, facts = newest(read_index(folder), folder)
    address = f"{folder}/{name}"
    try:
        package = fetched(address)
    except FileNotFoundError:
        raise Failed(f"{address} is not there, and the channel's list has it. Try again later.") from None
    put(program_in(checked(package, facts, address), address), path)


def program() -> Path:
    """Where micromamba is, fetched now if it was nowhere."""
    mine = (FOR_ALL if os.geteuid() == 0 else home() / ".local/share/labdock/bin") / "micromamba"
    for path in (mine, FOR_ALL / "micromamba"):
        if os.access(path, os.X_OK):
            return path
    fetch(mine)
    return mine


def its_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """*environment* with a place for what micromamba installs, and the channels that are used here."""
    made = dict(environment)
    made.setdefault("MAMBA_ROOT_PREFIX", str(home() / ".local/share/labdock/mamba"))
    if alias := environment.get("CONDA_CHANNEL_ALIAS"):
        made.setdefault("MAMBA_CHANNEL_ALIAS", alias)
    return made


def main(words: list[str]) -> int:
    """Become micromamba, or 1 with one line that says why not."""
    path = None
    try:
        path = program()
        os.execve(path, ["micromamba", *words], its_environment(os.environ))  # noqa: S606  no shell is wanted
    except Failed as failed:
        print(f"micromamba: {failed}", file=sys.stderr)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            told = "no space is left in your home. Delete something, and try again."
        elif path:
            told = f"{path} does not run ({error.strerror}). Delete it, and try again."
        else:
            told = f"{error.strerror}: {error.filename}. Is HOME your own home?"
        print(f"micromamba: {told}", file=sys.stderr)
    return 1
