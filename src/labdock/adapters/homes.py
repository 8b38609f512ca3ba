"""People on this machine's disk: the list of everybody, their homes, the shared folders, the names files.

The list (``people.json``) is the only record of who has which uid. It is replaced whole, never edited,
and never written over when it cannot be read.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from labdock.core.errors import HostError
from labdock.core.people import (
    FIRST_UID,
    LAB_GID,
    Person,
    Registry,
    forget,
    group_lines,
    passwd_lines,
    register,
)
from labdock.core.site import AgentRules

PEOPLE_FILE = "people.json"
_FORMAT = 1
_UIDS_END = 2**24
"""No uid of ours is as high; some file systems show such numbers for owners they cannot name."""


class Homes:
    """The people and folders of one instance. Its methods block; one call that changes things at a time.

    ``registry`` is everybody known, and is always what the file says.
    """

    def __init__(self, rules: AgentRules, data_dir: Path) -> None:
        """Read the list of people in *data_dir*.

        Raises:
            HostError: The list is there and cannot be understood.
        """
        self._homes = Path(rules.homes_root)
        self._removed = self._homes.parent / "removed"
        self._names = Path(rules.names_dir)
        self._shared = tuple(folder for folder in rules.shared if folder.name in rules.managed_shared)
        self._file = data_dir / PEOPLE_FILE
        self.registry = self._read()

    def prepare(self) -> None:
        """Make the folders that are missing, set the shared ones right, and write the names files.

        Raises:
            HostError: A folder cannot be made.
        """
        try:
            _make_folder(self._homes, 0o711)
            _make_folder(self._removed, 0o700)
            _make_folder(self._names, 0o755)
            for folder in self._shared:
                # A session that may not write has the folder mounted read-only.
                mode = 0o2755 if folder.write == "nobody" else 0o2770
                _make_folder(Path(folder.path).parent, 0o755)
                _make_shared(Path(folder.path), mode)
            self._write_names()
        except OSError as error:
            raise _failed("The folders of the storage cannot be made", error) from error

    def add(self, identity: str, name: str) -> Person:
        """The person with *identity*, registered under *name*, with a home and a name that resolves.

        Raises:
            AccountError: The name cannot be used, or the identity was removed.
            HostError: The home cannot be made, or something else is in its place.
        """
        registry, person = register(self.registry, identity, name)
        try:
            changed = registry != self.registry
            if changed:
                self._save(registry)
            self._make_home(person)
            if changed:
                self._write_names()
        except OSError as error:
            raise _failed(f"The home of {name} cannot be made", error) from error
        return person

    def remove(self, identity: str) -> Path | None:
        """Forget the person with *identity* and set their home aside; where it lies now, None if nowhere.

        Somebody unknown, or removed before, is no error: the answer is the same as the first time.

        Raises:
            HostError: The home cannot be moved, or the list not be written.
        """
        person = next((p for p in self.registry.people if p.identity == identity), None)
        if person is None:
            return None
        aside = self._removed / person.home
        try:
            if identity not in self.registry.gone:
                self._save(forget(self.registry, identity))
            if os.path.lexists(self._homes / person.home):
                (self._homes / person.home).rename(aside)
            self._write_names()
        except OSError as error:
            raise _failed(f"The home of {person.name} cannot be set aside", error) from error
        return aside if os.path.lexists(aside) else None

    def delete(self, aside: Path) -> None:
        """Delete a home that ``remove`` set aside; links in it are removed, never followed. Takes its time.

        Raises:
            HostError: Something in it cannot be deleted.
        """
        try:
            shutil.rmtree(aside)
        except OSError as error:
            raise _failed(f"{aside} cannot be deleted", error) from error

    def _make_home(self, person: Person) -> None:
        home = self._homes / person.home
        if not os.path.lexists(home):
            # Under another name until it has its owner, so that no half-made home is ever used.
            new = self._homes / f".new-{person.home}"
            new.mkdir(mode=0o700, exist_ok=True)
            new.chmod(0o700)
            os.lchown(new, person.uid, person.gid)
            new.rename(home)
            return
        found = home.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != person.uid:
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no folder"
            raise HostError(
                f"The home of {person.name}, {home}, is {kind} owned by uid {found.st_uid}; "
                f"it must be a folder owned by uid {person.uid}.",
                fix=f"Look at it, then: chown -R {person.uid}:{person.gid} {home}, or move it away.",
            )

    def _write_names(self) -> None:
        people = self.registry.current()
        _write(self._names / "passwd", passwd_lines(people), 0o644)
        _write(self._names / "group", group_lines(people), 0o644)

    def _save(self, registry: Registry) -> None:
        text = json.dumps(
            {
                "format": _FORMAT,
                "next_uid": registry.next_uid,
                "people": [asdict(person) for person in registry.people],
                "gone": sorted(registry.gone),
            },
            indent=1,
        )
        _write(self._file, text + "\n", 0o600)
        self.registry = registry

    def _read(self) -> Registry:
        try:
            text = self._file.read_text("utf-8")
        except FileNotFoundError:
            return Registry(next_uid=self._first_free_uid())
        except (OSError, ValueError) as error:
            raise _broken(self._file, str(error)) from error
        try:
            data = json.loads(text)
            if data["format"] != _FORMAT:
                raise ValueError(f"format {data['format']!r} is not {_FORMAT}")
            registry = Registry(
                tuple(Person(**person) for person in data["people"]),
                frozenset(data["gone"]),
                data["next_uid"],
            )
            _check(registry)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise _broken(self._file, f"{type(error).__name__}: {error}") from error
        return registry

    def _first_free_uid(self) -> int:
        """Above every owner of a home that is there: a lost list must not give a uid a second time."""
        try:
            owners = [
                entry.lstat().st_uid
                for root in (self._homes, self._removed)
                if root.is_dir()
                for entry in root.iterdir()
            ]
        except OSError as error:
            raise _failed("The homes cannot be listed", error) from error
        return max([FIRST_UID, *(uid + 1 for uid in owners if uid < _UIDS_END)])


def _check(registry: Registry) -> None:
    """Raises ValueError when *registry* could not have been written by us."""
    for person in registry.people:
        if type(person.uid) is not int or not FIRST_UID <= person.uid < registry.next_uid:
            raise ValueError(f"the uid {person.uid!r} is not between {FIRST_UID} and {registry.next_uid!r}")
        if not all(isinstance(text, str) for text in (person.identity, person.name, person.home)):
            raise ValueError("identity, name and home must be text")
        if not person.home or "/" in person.home or person.home.startswith("."):
            raise ValueError(f"the home {person.home!r} is no folder's name")
    current = registry.current()
    _check_distinct("identity", (person.identity for person in registry.people))
    _check_distinct("uid", (person.uid for person in registry.people))
    _check_distinct("home", (person.home for person in registry.people))
    _check_distinct("name", (person.name for person in current))


def _check_distinct(what: str, values: Iterable[object]) -> None:
    listed = list(values)
    if len(set(listed)) != len(listed):
        raise ValueError(f"two people have the same {what}")


def _make_folder(path: Path, mode: int) -> None:
    try:
        path.mkdir()
    except FileExistsError:
        if not path.is_dir():
            raise
        return
    path.chmod(mode)


def _make_shared(path: Path, mode: int) -> None:
    """Make *path*, or set its owner and mode right; what is in it stays as it is."""
    _make_folder(path, 0o700)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        found = os.fstat(descriptor)
        if (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, LAB_GID, mode):
            return
        # In this order, because without CAP_FSETID the kernel drops the set-group-id bit
        # when the group is not one of our own; a change of owner keeps it on a folder.
        os.fchown(descriptor, 0, 0)
        os.fchmod(descriptor, mode)
        os.fchown(descriptor, 0, LAB_GID)
    finally:
        os.close(descriptor)


def _write(path: Path, text: str, mode: int) -> None:
    """Replace *path* by *text* at once and for good: a crash leaves the old file or the new."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def _failed(what: str, error: OSError) -> HostError:
    return HostError(f"{what}: {error}.", fix="Check the space and the rights of the storage.")


def _broken(file: Path, reason: str) -> HostError:
    return HostError(
        f"The list of people, {file}, cannot be understood ({reason}).",
        fix="Restore it from a backup; it was left as it is, because a new one would give uids twice.",
    )
