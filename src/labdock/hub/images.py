"""Which images people may have now, and what to tell of a session whose image is not the current one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tornado.log import app_log

from labdock.core.errors import HostError, StartError
from labdock.core.session import ImageChoice, offered_to
from labdock.core.shelf import TRIAL_SUFFIX

Images = Callable[[], tuple[ImageChoice, ...]]
"""What is offered at this moment, trials included; raises HostError when that cannot be read."""


def images_for(images: Images, *, admin: bool) -> tuple[ImageChoice, ...]:
    """What somebody may have now, an administrator or not; may be empty.

    Raises:
        StartError: It cannot be read, in words for whoever wants to start; the log has the cause.
    """
    try:
        return offered_to(images(), admin=admin)
    except HostError as error:
        app_log.error("The images cannot be offered: %s", error)
        raise StartError(
            "The list of images cannot be read, so no session can be started.",
            fix="Tell an administrator: `labdock up` writes it anew.",
        ) from error


def to_state(image: ImageChoice) -> dict[str, str]:
    """What is kept of the image that a session was started from."""
    return {
        "id": image.id,
        "label": image.label,
        "reference": image.reference,
        "published_at": image.published_at,
    }


def from_state(state: Mapping[str, Any]) -> ImageChoice:
    """What ``to_state`` kept."""
    return ImageChoice(
        state["id"], state["label"], state["reference"], published_at=state.get("published_at", "")
    )


@dataclass(frozen=True, slots=True)
class ImageNews:
    """That a session's image is not the current one: *cause*, what new sessions get, and what to do."""

    cause: str
    now: str
    advice: str

    def __str__(self) -> str:
        # JupyterLab cuts a long message off: what it means comes before the versions.
        return " ".join(part for part in (self.cause, self.advice, self.now) if part)


def image_news(used: ImageChoice | None, offered: tuple[ImageChoice, ...]) -> ImageNews | None:
    """What to tell somebody who may have *offered* of their session's image *used*; None if all is well.

    Also None when nothing is known of the image: the session is older than this notice.
    """
    if used is None:
        return None
    known = {image.id: image for image in offered}
    # What was tried may be published by now, under the id of the image itself.
    named = [known[name] for name in (used.id, used.id.removesuffix(TRIAL_SUFFIX)) if name in known]
    if any(image.reference == used.reference for image in named):
        return None
    if not named:
        return ImageNews(
            f"The image of this session, {used.label}, is not offered any more.",
            "",
            "The session runs on as it is. Once you have stopped it, you start it again with another image.",
        )
    current = named[0]
    cause = "A newer image is available for this session."
    if current.published_at < used.published_at:
        cause = "The image of this session was taken back: new sessions get an earlier one."
    return ImageNews(
        cause,
        f"{current.label}: {current.details}." if current.details else f"{current.label}.",
        "Nothing changes until you stop the session and start it again.",
    )
