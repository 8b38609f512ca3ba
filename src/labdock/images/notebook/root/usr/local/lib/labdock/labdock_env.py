"""A person's own Python environments over the image's: made, listed, changed, locked, built anew, removed.

An environment is a folder of its own below ``~/.labdock/builds``, never renamed, since scripts in it hold its
path; ``~/.labdock/envs/NAME`` is a link to it, which takes its place only once it is complete. So whatever
is interrupted leaves a folder that no link names, and the next run removes it.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import NamedTuple

from labdock_kernel import BASE, LOCK_NAME, THIS_PYTHON, minor, read_settings, why_not

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,28}[a-z0-9])?")
PYTHON = sys.version.split()[0]

HOME = Path("~").expanduser()
ENVS = HOME / ".labdock" / "envs"
BUILDS = HOME / ".labdock" / "builds"
DATA = Path(os.environ.get("XDG_DATA_HOME") or HOME / ".local" / "share")
KERNELS = Path(os.environ.get("JUPYTER_DATA_DIR") or DATA / "jupyter", "kernels")
IMAGE_KERNELS = (Path(BASE, "share/jupyter/kernels"), Path("/usr/local/share/jupyter/kernels"))

FULL = re.compile(r"No space left on device|Disk quota exceeded")
NO_NETWORK = re.compile(
    r"Temporary failure in name resolution|Name or service not known|NameResolutionError|NewConnectionError"
    r"|Failed to establish a new connection|ConnectTimeoutError|ReadTimeoutError|Read timed out|ProxyError"
    r"|Network is unreachable|Connection refused|Connection reset|SSLError"
)
OUT_OF_TRIES = re.compile(r"Retry\(total=0|^ERROR: .*(?:ConnectionPool|Connection)", re.MULTILINE)
MISSING = re.compile(
    r"No matching distribution found for (\S+)|Package '([^']+)' requires a different Python"
)
UNBUILT = re.compile(r"Failed to build '([^']+)' when|Failed building wheel for (\S+)")
CONFLICT = re.compile(r"ResolutionImpossible|conflicting dependencies")


class Failed(Exception):  # noqa: N818  it is what happened, and not always an error of anybody's
    """Something did not work; the text says what, and what to do about it, in one line."""


class Misused(Failed):
    """The command was typed wrongly."""


class Lock(NamedTuple):
    """What an environment was made with, what was asked for, and what is in it, exactly."""

    python: str
    image: str
    asked: tuple[str, ...]
    pins: tuple[str, ...]


# What is there ---------------------------------------------------------------------------------------------


def this_image() -> str:
    """What this image is called; where nobody says, a name made from the packages in it."""
    if told := os.environ.get("LABDOCK_IMAGE"):
        return told
    import hashlib  # noqa: PLC0415  only here, and it costs as much as all else

    packages = sorted(folder.name for folder in site_packages(Path(BASE)).glob("*.dist-info"))
    return "packages-" + hashlib.sha256("\n".join(packages).encode()).hexdigest()[:12]


def site_packages(environment: Path) -> Path:
    """Where *environment* has its packages, whatever its Python."""
    version = minor(read_settings(str(environment)).get("version", THIS_PYTHON))
    return environment / "lib" / f"python{version}" / "site-packages"


def known() -> list[str]:
    """The names of this person's environments."""
    if not ENVS.is_dir():
        return []
    return sorted(path.name for path in ENVS.iterdir() if path.is_symlink() and NAME.fullmatch(path.name))


def found(name: str) -> Path:
    if NAME.fullmatch(name) and (ENVS / name).is_symlink():
        return ENVS / name
    names = known()
    there = f"There are: {', '.join(names)}." if names else f"Make it: labdock-env create {name}"
    raise Failed(f"there is no environment {name!r}. {there}")


def usable(name: str) -> Path:
    """The folder of the environment *name*, which runs in this image."""
    folder = found(name)
    if reason := why_not(name):
        raise Failed(f'the environment "{name}" {reason}. Build it anew: labdock-env rebuild {name}')
    return folder


def pins_in(environment: Path) -> tuple[str, ...]:
    """A line for each package that is in *environment* itself, as ``pip freeze --local`` has them.

    Reads the records of the packages, so it needs no Python that runs there.
    """
    pins = []
    for record in site_packages(environment).glob("*.dist-info"):
        try:
            fields = HeaderParser().parsestr((record / "METADATA").read_text(errors="replace"))
        except OSError:
            continue
        if fields["Name"] and fields["Version"]:
            pins.append(origin(record, fields["Name"]) or f"{fields['Name']}=={fields['Version']}")
    return tuple(sorted(pins, key=str.lower))


def ready_made(environment: Path) -> list[str]:
    """The packages in *environment* that came compiled, for this kind of machine, from the index."""
    names = []
    for record in site_packages(environment).glob("*.dist-info"):
        try:
            tags = (record / "WHEEL").read_text(errors="replace")
        except OSError:
            continue
        # What was compiled in a session has the plain tag "linux".
        if re.search(r"^Tag: .*-(?:many|musl)linux", tags, re.MULTILINE):
            names.append(normal(record.name.partition("-")[0]))
    return sorted(names)


def origin(record: Path, name: str) -> str:
    """How to install a package anew that came from a folder, a file or a repository; "" when it did not."""
    try:
        told = json.loads((record / "direct_url.json").read_text())
    except (OSError, ValueError):
        return ""
    url = told.get("url", "")
    if told.get("dir_info", {}).get("editable"):
        return f"-e {url.removeprefix('file://')}"
    if "vcs_info" in told:
        url = f"{told['vcs_info']['vcs']}+{url}@{told['vcs_info']['commit_id']}"
    return f"{name} @ {url}" if url else ""


def normal(requirement: str) -> str:
    """The package that *requirement* is about, as one spelling; all of it when it names none."""
    match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement)
    if not match or "://" in requirement.partition("@")[0]:
        return requirement
    return re.sub(r"[-_.]+", "-", match[0]).lower()


# The lock --------------------------------------------------------------------------------------------------


def lock_text(name: str, lock: Lock) -> str:
    facts = [("python", lock.python), ("image", lock.image), *(("asked", one) for one in lock.asked)]
    return "".join(
        (
            f'# The environment "{name}" of labdock-env; pip can install from this file too.\n',
            *(f"# {key}: {value}\n" for key, value in facts),
            *(f"{pin}\n" for pin in lock.pins),
        )
    )


def read_lock(name: str) -> Lock:
    """The lock of the environment *name*; "unknown" and nothing where there is none."""
    try:
        text = (ENVS / name / LOCK_NAME).read_text()
    except OSError:
        text = ""
    facts: dict[str, list[str]] = {"python": [], "image": [], "asked": []}
    for key, value in re.findall(r"^# (\w+): (.*)$", text, re.MULTILINE):
        facts.setdefault(key, []).append(value)
    pins = tuple(line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    first = {key: next(iter(values), "unknown") for key, values in facts.items()}
    return Lock(first["python"], first["image"], tuple(facts["asked"]), pins)


def write_lock(name: str, folder: Path, asked: tuple[str, ...]) -> None:
    lock = Lock(PYTHON, this_image(), asked, pins_in(folder))
    write_whole(folder / LOCK_NAME, lock_text(name, lock))


def write_whole(path: Path, text: str) -> None:
    """Write *path* so that nobody ever finds half of it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text)
    beside.replace(path)


def not_locked(name: str, lock: Lock) -> list[str]:
    """What is in the environment and stands otherwise, or not at all, in its lock."""
    return [pin for pin in pins_in(ENVS / name) if pin not in lock.pins]


# The work --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def at_work_on(name: str) -> Iterator[int]:
    """Nobody else changes the environment *name* in the meantime; gives the open file that says so."""
    BUILDS.mkdir(parents=True, exist_ok=True)
    ENVS.mkdir(exist_ok=True)
    lock = os.open(BUILDS / f"{name}.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        # Another one that only looks for what was left over is done at once.
        for _ in range(20):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.05)
        else:
            raise Failed(f'another labdock-env is at work on "{name}". Try again when it has ended.')
        yield lock
    finally:
        os.close(lock)


def sweep(name: str) -> None:
    """Remove what an interrupted run left of *name*; give a complete environment its kernel back."""
    link = ENVS / name
    used = link.resolve() if link.is_symlink() else None
    for build in BUILDS.glob(f"{name}.*/"):
        if build.resolve() != used:
            remove_tree(build)
    for half in ENVS.glob(f".{name}.*"):
        half.unlink(missing_ok=True)
    if used and used.is_dir() and not (KERNELS / name / "kernel.json").exists():
        write_kernel(name)
    elif not used and is_ours(name):
        remove_tree(KERNELS / name)


def sweep_all() -> None:
    """Remove what interrupted runs left of all environments that nobody is at work on."""
    builds = list(BUILDS.glob("*.*/"))
    used = {(ENVS / build.name.partition(".")[0]).resolve() for build in builds}
    for name in sorted({build.name.partition(".")[0] for build in builds if build.resolve() not in used}):
        with contextlib.suppress(Failed), at_work_on(name):
            sweep(name)


def remove_tree(path: Path) -> None:
    """Remove a folder and all in it, even where something still writes there; the next run has the rest."""
    for _ in range(3):
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return


def new_build(name: str) -> Path:
    """A fresh environment over the image's, with no package of its own yet."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=BUILDS))
    with dropped_unless_done(folder):
        fill(name, folder)
    return folder


def fill(name: str, folder: Path) -> None:
    """Make an environment over the image's of the empty *folder*."""
    over = read_settings(BASE).get("include-system-site-packages") == "true"
    done = subprocess.run(  # noqa: S603  our own words
        [
            f"{BASE}/bin/python",
            *("-m", "venv", "--without-pip", "--prompt", name),
            *(("--system-site-packages",) if over else ()),
            str(folder),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failed(explained(done.stderr) or f"no environment could be made: {last_line(done.stderr)}")
    # Through the link, a terminal that uses the environment goes on when it is built anew.
    for script in (folder / "bin").glob("activate*"):
        script.write_text(script.read_text().replace(str(folder), str(ENVS / name)))
    # As Python itself reads the image's packages: with what their own .pth files add.
    packages = site_packages(folder)
    of_image = str(site_packages(Path(BASE)))
    (packages / "labdock_base.pth").write_text(f"import site; site.addsitedir({of_image!r})\n")
    for program in ("pip", "pip3"):
        # The image's pip, told to work here; it finds its Python beside it, so the folder may move.
        (folder / "bin" / program).write_text('#!/bin/sh\nexec "${0%/*}/python" -m pip "$@"\n')
        (folder / "bin" / program).chmod(0o755)


def install(folder: Path, what: list[str], lock: int, *, quiet: bool) -> str:
    """Install *what* into the environment in *folder*; gives what pip said went wrong, "" when nothing did.

    *lock* is held for as long as pip runs, even when this program is killed.
    """
    if not what:
        return ""
    # Settings that would take packages elsewhere have no meaning here.
    environment = {k: v for k, v in os.environ.items() if k not in {"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT"}}
    environment |= {"PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", *what]
    said: list[str] = []
    with subprocess.Popen(  # noqa: S603  the person's own packages, into the person's own home
        command,
        env=environment,
        stdout=sys.stderr if quiet else None,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        pass_fds=(lock,),
    ) as pip:
        for line in pip.stderr or ():
            print(line, end="", file=sys.stderr, flush=True)
            said.append(line)
    return "".join(said) or "ERROR: pip failed" if pip.returncode else ""


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:") and line != "ERROR: Exception:"]
    return next(reversed(errors or lines), "").removeprefix("ERROR: ")


def explained(said: str) -> str:
    """Why pip failed, where that is not about packages; "" otherwise."""
    if FULL.search(said):
        return "no space is left, in your home or in /tmp. Delete something, and try again."
    # What pip then says of the package is wrong: it could not look.
    if NO_NETWORK.search(said) and OUT_OF_TRIES.search(said):
        return "the package index does not answer. Try again later, or ask the administrator."
    return ""


def unmet(said: str) -> str:
    """What is wrong with which package, as a sentence without its end; "" when it is not about one."""
    if match := MISSING.search(said):
        return f"there is no {match[1] or match[2]} for Python {THIS_PYTHON}"
    if match := UNBUILT.search(said):
        return f"{match[1] or match[2]} has no wheel for Python {THIS_PYTHON} and could not be built"
    return "these packages do not go together" if CONFLICT.search(said) else ""


def why_failed(said: str, ending: str) -> Failed:
    """The failure that *said* of pip stands for; *ending* is what became of the environment."""
    if reason := explained(said):
        return Failed(f"{reason} {ending}")
    if reason := unmet(said):
        return Failed(f"{reason}: check names and versions. {ending}")
    return Failed(f"pip failed: {last_line(said)} {ending}")


def take_place(name: str, folder: Path) -> None:
    """Make *folder* the environment *name*, in one step."""
    beside = ENVS / f".{name}.{folder.name.rpartition('.')[2]}"
    beside.symlink_to(Path("..", BUILDS.name, folder.name))
    beside.replace(ENVS / name)


def is_ours(name: str) -> bool:
    """Whether the kernel *name* of this person is one that labdock-env made."""
    try:
        told = json.loads((KERNELS / name / "kernel.json").read_text())
        return bool(told["argv"][:3] == ["labdock-env", "kernel", name])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_kernel(name: str) -> None:
    """Put the environment *name* into the launcher."""
    folder = KERNELS / name
    folder.mkdir(parents=True, exist_ok=True)
    for logo in Path(BASE, "share/jupyter/kernels/python3").glob("logo*"):
        shutil.copyfile(logo, folder / logo.name)
    spec = {
        "argv": ["labdock-env", "kernel", name, "-f", "{connection_file}"],
        "display_name": name,
        "language": "python",
        "metadata": {"debugger": True},
    }
    write_whole(folder / "kernel.json", json.dumps(spec, indent=1) + "\n")


@contextlib.contextmanager
def dropped_unless_done(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        remove_tree(folder)
        raise


# The words -------------------------------------------------------------------------------------------------


def check_new_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise Misused(f"{name!r} cannot be a name: take up to 30 of a-z, 0-9 and -, with no - at either end.")
    if name == "python3" or any((folder / name).exists() for folder in IMAGE_KERNELS):
        raise Misused(f"{name!r} is a kernel of the image: take another name.")
    if os.path.lexists(ENVS / name):
        raise Failed(
            f'there is an environment "{name}" already. Add to it: labdock-env add {name} PACKAGE; '
            f"or remove it first: labdock-env remove {name}"
        )
    if (KERNELS / name).exists() and not is_ours(name):
        raise Misused(f"you have a kernel {name!r} that labdock-env did not make: take another name.")


def create(args: argparse.Namespace) -> None:
    name: str = args.name
    check_new_name(name)
    with at_work_on(name) as lock:
        sweep(name)
        check_new_name(name)
        folder = new_build(name)
        with dropped_unless_done(folder):
            if said := install(folder, words_of(args), lock, quiet=args.json):
                raise why_failed(said, "No environment was made.")
            write_lock(name, folder, asked_in(args))
            take_place(name, folder)
        write_kernel(name)
    tell(name, args, f'Made the environment "{name}". Choose the kernel "{name}" for a notebook.')


def words_of(args: argparse.Namespace) -> list[str]:
    """What pip is asked to install, in its words."""
    for file in args.requirement:
        if not Path(file).is_file():
            raise Misused(f"there is no file {file}.")
    return [*whole_paths(args.packages), *(word for file in args.requirement for word in ("-r", file))]


def asked_in(args: argparse.Namespace) -> tuple[str, ...]:
    """The packages asked for by name, on the command line and in files of requirements."""
    lines = (
        line.partition(" #")[0].strip()
        for file in args.requirement
        for line in Path(file).read_text().splitlines()
    )
    return (*whole_paths(args.packages), *(line for line in lines if line and line[0] not in "#-"))


def whole_paths(packages: list[str]) -> tuple[str, ...]:
    """*packages*, with the full paths of those that are files or folders here."""
    return tuple(
        str(Path(one).resolve()) if os.sep in one and "://" not in one and Path(one).exists() else one
        for one in packages
    )


def add(args: argparse.Namespace) -> None:
    name: str = args.name
    if not (args.packages or args.requirement):
        raise Misused(f"what is to be added? labdock-env add {name} PACKAGE")
    found(name)
    with at_work_on(name) as lock:
        sweep(name)
        folder = usable(name)
        if said := install(folder, words_of(args), lock, quiet=args.json):
            raise why_failed(said, f'The environment "{name}" has what it had.')
        asked = asked_in(args)
        new = {normal(one) for one in asked}
        before = (one for one in read_lock(name).asked if normal(one) not in new)
        write_lock(name, folder.resolve(), (*before, *asked))
    tell(name, args, f"Added {', '.join(asked)}. Restart the kernel if it had imported them before.")


def remove(args: argparse.Namespace) -> None:
    name: str = args.name
    if not is_ours(name):
        found(name)
    with at_work_on(name):
        if is_ours(name):
            remove_tree(KERNELS / name)
        (ENVS / name).unlink(missing_ok=True)
        sweep(name)
    report(args, {"name": name, "removed": True}, f'Removed the environment "{name}" and its kernel.')


def lock(args: argparse.Namespace) -> None:
    name: str = args.name
    found(name)
    with at_work_on(name):
        sweep(name)
        folder = usable(name)
        new = not_locked(name, read_lock(name))
        write_lock(name, folder.resolve(), read_lock(name).asked)
    tell(name, args, f"Locked. New in it: {', '.join(new) if new else 'nothing'}.")


def rebuild(args: argparse.Namespace) -> None:
    name: str = args.name
    found(name)
    with at_work_on(name) as held:
        sweep(name)
        old = read_lock(name)
        # What a person installed by hand and did not lock comes along too.
        locked = {normal(pin) for pin in old.pins}
        pins = [*old.pins, *(pin for pin in pins_in(ENVS / name) if normal(pin) not in locked)]
        if args.newer:
            pins = [unpinned(pin) for pin in pins]
        pinned = {normal(pin) for pin in pins}
        also = [one for one in old.asked if normal(one) not in pinned]
        folder = new_build(name)
        with dropped_unless_done(folder):
            what = [word for pin in pins for word in (pin.split(" ", 1) if pin.startswith("-e ") else [pin])]
            # For those, pip would compile the old version's source, mostly in vain: better name them.
            wheels = [word for one in ready_made(ENVS / name) for word in ("--only-binary", one)]
            words = [*wheels, *what, *also] if what or also else []
            if said := install(folder, words, held, quiet=args.json):
                raise why_not_rebuilt(name, said, args.newer)
            write_lock(name, folder, tuple(map(unpinned, old.asked)) if args.newer else old.asked)
            take_place(name, folder)
        sweep(name)
        write_kernel(name)
    tell(name, args, f'Built the environment "{name}" anew for Python {PYTHON}. Restart its kernels.')


def unpinned(requirement: str) -> str:
    """*requirement* without its version; a folder, a file or a commit stays the one it is."""
    return requirement if " @ " in requirement else requirement.partition("==")[0].strip()


def why_not_rebuilt(name: str, said: str, newer: bool) -> Failed:
    """What to say of a rebuild that failed; the way out is new versions, where old ones were the reason."""
    ending = "The old one is as it was."
    reason = unmet(said)
    if newer or explained(said) or not reason:
        return why_failed(said, ending)
    return Failed(f"{reason}. {ending} To take new versions: labdock-env rebuild {name} --newer")


def facts(name: str) -> dict[str, object]:
    held = read_lock(name)
    reason = why_not(name)
    return {
        "name": name,
        "path": str(ENVS / name),
        "python": held.python,
        "image": held.image,
        "fits": not reason,
        "reason": reason,
        "asked": list(held.asked),
        "packages": list(held.pins),
        "not_locked": not_locked(name, held),
    }


def show_all(args: argparse.Namespace) -> None:
    all_facts = [facts(name) for name in known()]
    lines = [
        f"{one['name']:<20} Python {one['python']:<10} {_count(one['packages'])}"
        + (f"  needs: labdock-env rebuild {one['name']}" if one["reason"] else "")
        for one in all_facts
    ]
    report(
        args, all_facts, "\n".join(lines) or "No environment yet. Make one: labdock-env create NAME PACKAGE"
    )


def _count(packages: object) -> str:
    number = len(packages) if isinstance(packages, list) else 0
    return f"{number} package{'' if number == 1 else 's'} of its own"


def show(args: argparse.Namespace) -> None:
    found(args.name)
    told = facts(args.name)
    lines = [
        f"{told['name']}: Python {told['python']}, {told['path']}",
        f"made in the image {told['image']}",
        f"asked for: {' '.join(map(str, listed(told['asked']))) or 'nothing'}",
        *(f"  {pin}" for pin in listed(told["packages"])),
    ]
    if new := listed(told["not_locked"]):
        lines.append(f"not in its lock: {' '.join(new)}. Lock them: labdock-env lock {args.name}")
    if told["reason"]:
        lines.append(f"It {told['reason']}. Build it anew: labdock-env rebuild {args.name}")
    report(args, told, "\n".join(lines))


def listed(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []


def activate(args: argparse.Namespace) -> None:
    folder = usable(args.name)
    command = f"source {folder}/bin/activate"
    report(args, {"name": args.name, "command": command}, command)
    if sys.stdout.isatty():
        print(f'Type that line, or: eval "$(labdock-env activate {args.name})"', file=sys.stderr)


def tell(name: str, args: argparse.Namespace, text: str) -> None:
    report(args, facts(name) if args.json else None, text)


def report(args: argparse.Namespace, value: object, text: str) -> None:
    print(json.dumps(value, indent=2) if args.json else text)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything here does."""

    def error(self, message: str) -> None:  # type: ignore[override]  # it never returns either
        raise Misused(f"{message}. See: {self.prog} --help")


def parser() -> Parser:
    made = Parser(
        prog="labdock-env",
        description="Python environments of your own, in your home, over the packages of the image.",
    )
    words = made.add_subparsers(dest="word", metavar="WORD", required=True, parser_class=Parser)

    def word(name: str, does: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        one = words.add_parser(name, help=text, description=text)
        one.add_argument("--json", action="store_true", help="print facts as JSON")
        one.set_defaults(does=does)
        return one

    def about_one(
        name: str, does: Callable[[argparse.Namespace], None], text: str
    ) -> argparse.ArgumentParser:
        one = word(name, does, text)
        one.add_argument("name", metavar="NAME")
        return one

    of_create = about_one("create", create, "Make an environment, with a kernel in the launcher.")
    word("list", show_all, "List your environments.")
    about_one("show", show, "Say what is in an environment.")
    of_add = about_one("add", add, "Install more packages into an environment.")
    for one in (of_create, of_add):
        one.add_argument("packages", metavar="PACKAGE", nargs="*", help="what pip installs into it")
        one.add_argument(
            "-r", "--requirement", metavar="FILE", action="append", default=[], help="a list of them"
        )
    about_one("lock", lock, "Write down what is in an environment now, after a pip install by hand.")
    of_rebuild = about_one("rebuild", rebuild, "Build an environment anew for this image, from its lock.")
    of_rebuild.add_argument(
        "--newer", action="store_true", help="take new versions in place of the locked ones"
    )
    about_one("activate", activate, "Print the line that makes a terminal use an environment.")
    about_one("remove", remove, "Remove an environment and its kernel.")
    return made


def main(words: list[str]) -> int:
    """Do what *words* ask for; 0 when it is done, 1 when it failed, 2 when the words are wrong."""
    try:
        args = parser().parse_args(words)
        if args.word != "remove":
            sweep_all()
        args.does(args)
    except Failed as failed:
        return fail(str(failed), 2 if isinstance(failed, Misused) else 1)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return fail(explained("No space left on device"), 1)
        if error.errno in {errno.EACCES, errno.EROFS, errno.EPERM}:
            return fail(f"{error.filename} cannot be written. Is HOME your own home?", 1)
        return fail(f"{error.strerror}: {error.filename}", 1)
    except KeyboardInterrupt:
        return fail("interrupted. Nothing is left over.", 130)
    return 0


def fail(text: str, status: int) -> int:
    print(f"labdock-env: {text}", file=sys.stderr)
    return status
