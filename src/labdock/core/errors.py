"""One tree of errors: what happened, what to do about it, a label for metrics.

Whatever is raised outside this tree is a bug and may crash.
"""

from __future__ import annotations


class LabdockError(Exception):
    """Something a person can act on.

    *message* is one plain sentence with the fact and the number; *fix* is the next move;
    *details* are further lines (a log's tail, a list of problems) shown below the message.
    """

    label = "error"

    def __init__(self, message: str, *, fix: str = "", details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.details = details

    def __str__(self) -> str:
        return f"{self.message} {self.fix}".strip()


class ConfigError(LabdockError):
    """``labdock.yaml`` cannot be used; *details* holds every problem, one a line."""

    label = "config"


class EngineError(LabdockError):
    """The Docker engine refused, failed or cannot be reached."""

    label = "engine"


class BuildError(LabdockError):
    """An image could not be built; *details* holds the last lines of the build.

    *step* is the line of the Dockerfile that failed, "" where none was reached.
    """

    label = "build"

    def __init__(self, message: str, *, fix: str = "", details: tuple[str, ...] = (), step: str = "") -> None:
        super().__init__(message, fix=fix, details=details)
        self.step = step


class CheckError(LabdockError):
    """An image must not be given to people; *details* says what is wrong in it, and what to do."""

    label = "check"


class HostError(LabdockError):
    """The machine lacks something: a port, space, a right, a program."""

    label = "host"


class HubError(LabdockError):
    """The hub refused a request or cannot be reached."""

    label = "hub"


class StartError(LabdockError):
    """A session did not start; *details* holds the last lines it printed."""

    label = "start"


class BadRequestError(LabdockError):
    """Input from a person or a program that makes no sense; *field* names where."""

    label = "bad-request"

    def __init__(self, message: str, *, field: str, fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.field = field


class AccountError(LabdockError):
    """An account or a link cannot be made or used."""

    label = "account"


class RefusedError(LabdockError):
    """The guard refused a request to the engine; *field* names what was wrong in it."""

    label = "refused"

    def __init__(self, message: str, *, field: str, fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.field = field


class DriverError(LabdockError):
    """The machine has NVIDIA hardware, and its driver does not work; *kind* says in a word in which way."""

    label = "driver"

    def __init__(self, message: str, *, kind: str, fix: str) -> None:
        super().__init__(message, fix=fix)
        self.kind = kind


class NoCardError(LabdockError):
    """No card can be given; *waiting_helps* when one may come free without a change of settings."""

    label = "no-card"

    def __init__(self, message: str, *, fix: str, waiting_helps: bool) -> None:
        super().__init__(message, fix=fix)
        self.waiting_helps = waiting_helps
