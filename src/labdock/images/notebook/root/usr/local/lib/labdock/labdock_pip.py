"""Says what to do in place of a pip install into the image's environment, which people may not change.

The build of an image runs this file as a program, which makes pip call :func:`look` whenever it starts. A
``.pth`` file would do without touching pip, but every other start of Python would read it: about 0.5 ms.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Mapping, Sequence

BASE = os.environ.get("LABDOCK_BASE", "/opt/env")
HOOK = """
# Added by Labdock: who may not change this environment is told what to do instead.
import sys
sys.path.append({folder!r})
try:
    import labdock_pip
except ImportError:
    pass
else:
    labdock_pip.look()
finally:
    sys.path.remove({folder!r})
"""
PIP = re.compile(r"pip(?:3(?:\.\d+)?)?")
WORDS = re.compile(
    "install|uninstall|download|freeze|inspect|list|show|check|config|search|cache|index|wheel|hash|lock"
    "|completion|debug|help"
)
ELSEWHERE = ("--target", "--prefix", "--root", "--python", "--dry-run", "--help", "--version")
ELSEWHERE_SET = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "PIP_DRY_RUN")
WITH_VALUE = re.compile(
    "-[rceifC]|--(?:requirement|constraint|editable|index-url|extra-index-url|find-links|platform"
    "|python-version|implementation|abi|src|progress-bar|upgrade-strategy|config-settings|global-option"
    "|no-binary|only-binary|log|proxy|retries|timeout|exists-action|trusted-host|cert|client-cert|cache-dir"
    "|report|use-feature|use-deprecated|group|root-user-action|keyring-provider)"
)
"""The options of pip whose value is the next word."""


def pip_words(argv: Sequence[str]) -> list[str] | None:
    """The words after "pip" in the command *argv* of a Python process; None when it does not run pip."""
    for position, word in enumerate(argv[1:], 1):
        if argv[position - 1] == "-m":
            return list(argv[position + 1 :]) if word == "pip" else None
        if not word.startswith("-") and argv[position - 1] not in {"-X", "-W"}:
            return list(argv[position + 1 :]) if PIP.fullmatch(os.path.basename(word)) else None
    return None


def changes(words: Sequence[str], environment: Mapping[str, str]) -> str:
    """``install`` or ``uninstall`` where pip, given *words*, would change its environment; "" otherwise."""
    word = next((word for word in words if WORDS.fullmatch(word)), "")
    if word not in {"install", "uninstall"} or any(environment.get(name) for name in ELSEWHERE_SET):
        return ""
    for option in words:
        if option in {"-h", "-t"} or option.partition("=")[0] in ELSEWHERE:
            return ""
    return word


def packages(words: Sequence[str]) -> list[str]:
    """The requirements among *words* of pip that stand there by themselves."""
    given, skip = [], False
    for word in words[words.index("install") + 1 :] if "install" in words else ():
        if not skip and not word.startswith("-"):
            given.append(word)
        skip = WITH_VALUE.fullmatch(word) is not None
    return given


def all_there(words: Sequence[str]) -> bool:
    """Whether pip will find every package that *words* ask for in place: then it changes nothing."""
    asked = packages(words)
    # Any other option may ask for more than is seen here.
    if not asked or any(word.startswith("-") and word not in {"-q", "--quiet", "-v", "-y"} for word in words):
        return False
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  slow, and seldom needed

    try:
        from pip._vendor.packaging.requirements import InvalidRequirement, Requirement  # noqa: PLC0415
    except ImportError:
        return False
    try:
        for one in map(Requirement, asked):
            if one.marker or one.extras or one.url:
                return False
            if not one.specifier.contains(version(one.name), prereleases=True):
                return False
    except (InvalidRequirement, PackageNotFoundError):
        return False
    return True


def advice(word: str, words: Sequence[str], own: Sequence[str]) -> str:
    """The two lines; *own* are the person's environments."""
    plain = re.compile(r"[A-Za-z0-9._/\[\],<>=!~-]{1,60}")
    asked = [word for word in packages(words) if plain.fullmatch(word)]
    for option, value in itertools.pairwise(words):
        if option in {"-r", "--requirement"} and plain.fullmatch(value):
            asked += ["-r", value]
    what = " ".join(f"'{word}'" if set(word) & set("[]<>!~") else word for word in asked) or "PACKAGE"
    if "--user" in words:
        first = "labdock: sessions do not look where pip puts --user packages, so they could not be imported."
    else:
        first = f"labdock: the image's packages are the same for everybody, so pip cannot {word} here."
    name = own[0] if own else "mine"
    verb, begin = (
        ("add", "Your own environment can") if own else ("create", "Make an environment of your own")
    )
    return f'{first}\n{begin}: labdock-env {verb} {name} {what}  (then choose the kernel "{name}").\n'


def own_environments() -> list[str]:
    try:
        names = os.listdir(os.path.expanduser("~/.labdock/envs"))
    except OSError:
        return []
    return sorted(name for name in names if not name.startswith("."))


def look() -> None:
    """End this process with two lines of advice, if it is a pip that is about to fail at this environment."""
    words = pip_words(sys.orig_argv)
    word = changes(words or (), os.environ)
    if not words or not word:
        return
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    folder = os.path.join(sys.prefix, "lib", python, "site-packages")
    if sys.prefix != BASE or os.access(folder, os.W_OK):
        return
    if word == "install" and "--user" not in words and all_there(words):
        return
    sys.stderr.write(advice(word, words, own_environments()))
    sys.stderr.flush()
    sys.exit(1)


def hook() -> None:
    """Make the pip of this Python call :func:`look`; a second time changes nothing.

    Compiles what is beside this file too: people could not keep the byte code.
    """
    import compileall  # noqa: PLC0415  when an image is built
    import py_compile  # noqa: PLC0415

    import pip  # noqa: PLC0415

    folder = os.path.dirname(os.path.abspath(__file__))
    with open(pip.__file__, "r+", encoding="utf-8") as file:
        if "Added by Labdock" not in file.read():
            file.write(HOOK.format(folder=folder))
    py_compile.compile(pip.__file__, doraise=True)
    compileall.compile_dir(folder, quiet=1)


if __name__ == "__main__":
    hook()
