"""Labdock's pages inside JupyterHub: links, passwords, people, and the start form."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader
from jupyterhub.handlers.base import BaseHandler
from jupyterhub.handlers.static import CacheControlStaticFilesHandler
from jupyterhub.spawner import SpawnException
from tornado import web

from labdock.core.accounts import (
    Account,
    Link,
    LinkKind,
    LinkState,
    TooManyTriesError,
    UnknownPersonError,
)
from labdock.core.admission import NotAdmittedError
from labdock.core.allocation import Held, Offer, offers, person_limit
from labdock.core.errors import AccountError, BadRequestError, HubError, LabdockError, StartError
from labdock.core.gpus import GpuReport, Holder, Lease
from labdock.core.login import LOCAL
from labdock.core.people import NAME_PATTERN
from labdock.core.session import Limits, default_image, no_image
from labdock.core.site import HubSettings
from labdock.hub import known_browser
from labdock.hub.admission import Admission
from labdock.hub.api import api_handlers
from labdock.hub.cards import Cards
from labdock.hub.images import ImageNews, Images, image_news, images_for
from labdock.hub.people import (
    Agent,
    MadeLink,
    People,
    PeopleMixin,
    administrators_only,
    iso_time,
    sign_out_everywhere,
)
from labdock.hub.second_factor_pages import SecondFactorHandler, SecondStepHandler
from labdock.hub.sign_in import SignIn, address_of
from labdock.hub.sign_up import SignUpHandler
from labdock.hub.waiting import WaitingHandler

HERE = Path(__file__).parent
STATIC = HERE / "static"
UNAVAILABLE_PAGE = STATIC / "errors/503.html"
"""For the edge to send with status 503 while the hub is away; needs nothing else."""

_parts = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True)


def extra_handlers(
    settings: HubSettings, images: Images, sign_in: SignIn, agent: Agent, cards: Cards
) -> list[tuple[Any, ...]]:
    """What ``JupyterHub.extra_handlers`` is set to."""
    people = People(settings, sign_in.admission, agent)
    return [
        (r"/link/(.*)", LinkHandler, {"sign_in": sign_in}),
        (r"/password", PasswordHandler, {"sign_in": sign_in}),
        *(local_handlers(sign_in) if settings.login.method == LOCAL else ()),
        (r"/waiting", WaitingHandler, {"admission": sign_in.admission}),
        (r"/people", PeopleHandler, {"people": people}),
        (r"/people/dismiss", DismissHandler, {"people": people}),
        (
            r"/people/([^/]+)/(reset|remove|stop|approve|refuse|second-factor)",
            PersonHandler,
            {"people": people},
        ),
        (r"/labdock/(.*)", CacheControlStaticFilesHandler, {"path": str(STATIC)}),
        *api_handlers(people, cards, images),
    ]


def local_handlers(sign_in: SignIn) -> list[tuple[Any, ...]]:
    """What there is with local accounts alone."""
    given = {"sign_in": sign_in}
    return [
        (r"/sign-up", SignUpHandler, given),
        (r"/second-factor", SecondFactorHandler, given),
        (r"/second-step", SecondStepHandler, given),
    ]


def template_paths() -> list[str]:
    """What ``JupyterHub.template_paths`` is set to."""
    return [str(HERE / "templates")]


def template_vars(
    settings: HubSettings, images: Images, admission: Admission, cards: Cards
) -> dict[str, Any]:
    """What ``JupyterHub.template_vars`` is set to; the templates await what is asynchronous."""

    local, store = settings.login.method == LOCAL, admission.store

    def needs_password(user: Any) -> bool:
        account = store.find(user.name) if user and local else None
        return account is not None and not account.has_password

    async def gpus_of(container: str) -> HeldGpus | None:
        report = await cards.glance()
        return None if report is None else held_gpus(report, container)

    def image_news_of(spawner: Any) -> ImageNews | None:
        try:
            offered = images_for(images, admin=spawner.user.admin)
        except StartError:
            # It concerns whoever starts a session; this one runs.
            return None
        return image_news(spawner.started_from, offered)

    return {
        "site_name": settings.site_name,
        "contact": settings.contact,
        "local_accounts": local,
        "needs_password": needs_password,
        "sign_up_offered": lambda user: local and admission.rules.approve,
        "requests_waiting": lambda user: store.requests,
        # JupyterHub calls what it is given with the person whose page it is.
        "gpus_of": lambda user: gpus_of,
        "image_news_of": lambda user: image_news_of,
    }


@dataclass(frozen=True, slots=True)
class HeldGpus:
    """What a session holds, in words; *notice* is why it should be started anew, empty if it is well."""

    words: str
    notice: str


def held_gpus(report: GpuReport, container: str) -> HeldGpus | None:
    """What the session in *container* holds; None without a card."""
    for lease in report.leases:
        if lease.container == container:
            return HeldGpus(_cards_in_words(report, lease), _notice(report, lease))
    return None


def _notice(report: GpuReport, lease: Lease) -> str:
    cards = [report.inventory.find(uuid) for uuid in lease.cards]
    if report.trouble is not None:
        return "The GPUs of this machine do not work now; whoever runs it knows why."
    if report.outdated(lease):
        return (
            "The GPU driver was updated since this session started: "
            "stop it and start it again to use the GPU."
        )
    if None in cards:
        return "A GPU of this session is not there any more: stop it and start it again."
    if any(card is not None and card.fault for card in cards):
        return "A GPU of this session reports a fault: save your work, stop the session and start it again."
    return ""


def _cards_in_words(report: GpuReport, lease: Lease) -> str:
    """The cards of *lease* by their models: "2 × NVIDIA H100, 80 GiB"."""
    cards = [report.inventory.find(uuid) for uuid in lease.cards]
    kinds = Counter(
        _kind(card.label, card.memory_bytes) if card is not None else "GPU that is gone" for card in cards
    )
    return ", ".join(f"{number} × {kind}" for kind, number in kinds.items())


def _kind(label: str, memory_bytes: int | None) -> str:
    return label if memory_bytes is None else f"{label}, {memory_bytes / 2**30:.0f} GiB"


@dataclass(frozen=True, slots=True)
class GpuChoice:
    """One kind of card on the start form: what the form sends, the words, and whether it can be had now."""

    value: str
    label: str
    free: str
    can_be_had: bool


@dataclass(frozen=True, slots=True)
class GpuForm:
    """The start form's part for GPUs; *trouble* is why none can be chosen at all, in one line."""

    choices: tuple[GpuChoice, ...] = ()
    chosen: str = ""
    most: int = 1
    number: int = 1
    memories: tuple[tuple[int, str], ...] = ()
    holders: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    trouble: str = ""


ANY_GPU = "any"


def gpu_form(
    report: GpuReport, settings: HubSettings, options: Mapping[str, Any], limit: int | None
) -> GpuForm | None:
    """What can be chosen now, with the choice of the last start's *options*; None without any GPU.

    *limit* is the most cards the person may hold at once, None for any number.
    """
    if report.trouble is not None:
        return GpuForm(trouble=f"No GPU can be chosen: {report.trouble.message}")
    rules = settings.gpus
    found = offers(report.inventory, Held.of(report.leases), rules)
    if not found:
        return None
    choices = _choices([offer for offer in found if offer.total])
    if len(choices) > 1:
        anything = any(choice.can_be_had for choice in choices)
        choices.insert(0, GpuChoice(ANY_GPU, "Any GPU", "the smallest that will do", anything))
    bounded = any(offer.free is not None for offer in found)
    allowed = rules.per_session if limit is None else min(rules.per_session, limit)
    most = max(1, allowed) if bounded else 1
    sizes = sorted({offer.memory_bytes for offer in found if offer.memory_bytes and offer.total})
    return GpuForm(
        choices=tuple(choices),
        chosen=_chosen(choices, options),
        most=most,
        number=_whole(options.get("gpus"), most),
        memories=tuple((size, f"{size / 2**30:.0f} GiB") for size in sizes[1:]),
        holders=tuple(_holder_in_words(report, lease) for lease in report.leases),
        notes=_notes(report),
    )


def _choices(found: list[Offer]) -> list[GpuChoice]:
    """One choice for each model: a start names no more, though its cards may differ in size and sharing."""
    alike: dict[str, list[Offer]] = {}
    for offer in found:
        alike.setdefault(offer.label, []).append(offer)
    choices = []
    for label, same in alike.items():
        sizes = {offer.memory_bytes for offer in same}
        choices.append(
            GpuChoice(
                label,
                _kind(label, same[0].memory_bytes if len(sizes) == 1 else None),
                "; ".join(map(_free, same)),
                any(offer.free != 0 for offer in same),
            )
        )
    return choices


def _notes(report: GpuReport) -> tuple[str, ...]:
    """What everybody should know; what to do about it is for administrators, in ``labdock gpus``."""
    faulty = sum(bool(card.fault) for card in report.inventory.cards)
    if not faulty:
        return ()
    who = "GPU reports a fault and is" if faulty == 1 else "GPUs report a fault and are"
    return (f"{faulty} {who} not given out.",)


def _free(offer: Offer) -> str:
    if offer.free is None:
        return f"all {offer.total}, shared with everybody" if offer.total > 1 else "shared with everybody"
    what = " seats" if (offer.share.seats or 1) > 1 else ""
    return f"{offer.free} of {offer.total}{what} free"


def _chosen(choices: list[GpuChoice], options: Mapping[str, Any]) -> str:
    """The last choice; the first time the first card that is free, if one is."""
    if "gpus" in options or "image" in options:
        wanted = str(options.get("gpu_model") or ANY_GPU) if _whole(options.get("gpus"), 1, least=0) else ""
        known = {choice.value.casefold(): choice.value for choice in choices}
        return known.get(wanted.casefold(), choices[0].value if wanted and choices else "")
    return next((choice.value for choice in choices if choice.can_be_had), "")


def _whole(value: object, most: int, *, least: int = 1) -> int:
    """*value* of the last start as a whole number from *least* to *most*; what is none is the least."""
    # Nobody checked what came with a session that was named and never started.
    text = value if isinstance(value, str) else str(value) if type(value) is int and value < 10_000 else ""
    number = int(text) if re.fullmatch("[0-9]{1,4}", text) else least
    return min(max(number, least), most)


def _holder_in_words(report: GpuReport, lease: Lease) -> str:
    since = datetime.fromtimestamp(lease.since_s, UTC)
    who = lease.person or "somebody, in a container started by hand"
    return f"{who}: {_cards_in_words(report, lease)}, since {since:%Y-%m-%d %H:%M} UTC"


async def options_form(spawner: Any) -> str:
    """The start page's fields as HTML: how the last start failed, then the images and GPUs to choose from.

    Without any image it is the reason, and nothing to choose.
    Reads of *spawner* its ``settings``, ``images``, ``user``, ``cards``, ``user_options`` (the last choice)
    and ``start_progress.failure``.
    """
    try:
        images = images_for(spawner.images, admin=spawner.user.admin)
        if not images:
            raise no_image()
    except StartError as error:
        return _parts.get_template("no_image.html").render(error=error)
    settings: HubSettings = spawner.settings
    report = await spawner.cards.glance()
    if report is not None:
        groups = tuple(group.name for group in spawner.user.groups)
        holder = Holder(settings.instance, "", spawner.user.name, groups)
        gpus = gpu_form(report, settings, spawner.user_options, person_limit(holder, settings.gpus))
    else:
        gpus = GpuForm(trouble="Nothing is known of the GPUs now: the part that asks them does not answer.")
    chosen = spawner.user_options.get("image")
    if chosen not in [image.id for image in images]:
        chosen = default_image(images).id
    return _parts.get_template("start_fields.html").render(
        images=images,
        chosen=chosen,
        limits=limits_in_words(settings.limits),
        gpus=gpus,
        failure=spawner.start_progress.failure,
    )


def options_from_form(form: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """The options of a session from the start form's fields, each a list of values; not checked yet.

    The field ``gpu`` is the form's own: none (empty), any, or a model; without it the fields are taken as
    they are, as the REST API has them.
    """
    options: dict[str, Any] = {
        key: values[0] if len(values) == 1 else list(values) for key, values in form.items() if key != "_xsrf"
    }
    if "gpu" not in options and "without_gpu" not in options:
        return options
    kind = "" if options.pop("without_gpu", None) else options.get("gpu")
    options.pop("gpu", None)
    if not kind:
        return {key: value for key, value in options.items() if not key.startswith("gpu")} | {"gpus": 0}
    wish = {"gpus": 1, **options}
    if kind != ANY_GPU:
        return {key: value for key, value in wish.items() if key != "gpu_memory"} | {"gpu_model": kind}
    return {key: value for key, value in wish.items() if key != "gpu_memory" or value}


def not_started(error: LabdockError, *, status_code: int = 503) -> SpawnException:
    """*error* as the spawner raises it: our words on every page, no traceback in the log."""
    html = failure_html(error)
    raised = SpawnException(str(error), reason=error.label, message_html=html, status_code=status_code)
    # The two that the start page, the waiting page and the event stream read.
    raised.jupyterhub_message = str(error)
    raised.jupyterhub_html_message = html
    return raised


def failure_html(error: LabdockError) -> str:
    """The cause, the way out and the last lines of *error* as HTML."""
    return _parts.get_template("failure.html").render(failure=error)


def limits_in_words(limits: Limits) -> str:
    """*limits* for a person choosing an image: "4 CPUs, 8 GiB of memory"."""
    cpus = "all CPUs" if limits.cpus is None else "1 CPU" if limits.cpus == 1 else f"{limits.cpus:g} CPUs"
    if limits.memory_bytes is None:
        return f"{cpus}, all memory"
    gib = limits.memory_bytes / 2**30
    return f"{cpus}, {gib:g} GiB of memory" if gib >= 1 else f"{cpus}, {gib * 1024:.0f} MiB of memory"


class LinkHandler(BaseHandler):  # type: ignore[misc]  # JupyterHub has no type information
    """``/hub/link/<token>``: GET shows what the link does, POST does it, once."""

    def initialize(self, sign_in: SignIn) -> None:
        self.sign_in = sign_in
        # Before anything is logged: whoever reads the log must not get a link that still works.
        self.request.path = self.request.path.partition("/link/")[0] + "/link/[secret]"
        self.request.uri = self.request.path

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cache-Control", "no-store")

    async def get(self, token: str) -> None:
        state, link, account = await self._look_up(token)
        if state is LinkState.OPEN and link and account:
            await self._show(link.kind, account)
        else:
            await self._refuse(state)

    async def post(self, token: str) -> None:
        state, link, account = await self._look_up(token)
        if state is not LinkState.OPEN or link is None or account is None:
            await self._refuse(state)
            return
        hashed = None
        if link.kind is not LinkKind.SIGNIN:
            try:
                hashed = await self.sign_in.hash(
                    self.get_body_argument("password", "", strip=False),
                    name=account.name,
                    email=account.email,
                    full_name=account.full_name,
                )
            except BadRequestError as error:
                self.set_status(400)
                await self._show(link.kind, account, error=str(error))
                return
        admission = self.sign_in.admission
        used = await asyncio.to_thread(
            admission.store.use_link, token, now=admission.now(), password_hash=hashed
        )
        if used is None:
            await self._refuse(LinkState.USED)
            return
        user = await self.auth_to_user({"name": used.name, "admin": admission.is_admin(used)})
        if hashed is not None:
            sign_out_everywhere(self.db, user)
        if await self.sign_in.second.in_use(used):
            self.log.info("%s used a link (%s) and is asked for a code", used.name, link.kind)
            await self.sign_in.second.send_to_second_step(self, used)
            return
        self.set_login_cookie(user)
        known_browser.remember(self, used.identity)
        self.log.info("%s signed in by a link (%s)", used.name, link.kind)
        self.redirect(self.get_next_url(user), status=303)

    async def _look_up(self, token: str) -> tuple[LinkState, Link | None, Account | None]:
        admission = self.sign_in.admission
        state, link, account = await asyncio.to_thread(admission.store.look_up, token, now=admission.now())
        if account and (account.name in admission.leaving or not admission.judge(account).admitted):
            return LinkState.UNKNOWN, None, None
        return state, link, account

    async def _show(self, kind: LinkKind, account: Account, error: str = "") -> None:
        self.finish(await self.render_template("link.html", kind=kind, person=account.name, error=error))

    async def _refuse(self, state: LinkState) -> None:
        self.set_status(404 if state is LinkState.UNKNOWN else 410)
        self.finish(await self.render_template("link_closed.html", state=state))


class PasswordHandler(BaseHandler):  # type: ignore[misc]  # JupyterHub has no type information
    """``/hub/password``: a person changes their own password, or sets their first one."""

    def initialize(self, sign_in: SignIn) -> None:
        self.sign_in = sign_in

    @web.authenticated
    async def get(self) -> None:
        await self._show(await self._account())

    @web.authenticated
    async def post(self) -> None:
        account = await self._account()
        present = self.get_body_argument("present", "", strip=False)
        try:
            if account.has_password and (
                await self.sign_in.check(
                    account.name, present, address_of(self), known=known_browser.marks(self)
                )
                is None
            ):
                raise BadRequestError("That is not your present password.", field="present")
            hashed = await self.sign_in.hash(
                self.get_body_argument("password", "", strip=False),
                name=account.name,
                email=account.email,
                full_name=account.full_name,
            )
        except BadRequestError as error:
            self.set_status(400)
            await self._show(account, error=str(error), field=error.field)
            return
        except NotAdmittedError as error:
            raise web.HTTPError(403, str(error)) from error
        except TooManyTriesError as error:
            self.set_status(429)
            self.set_header("Retry-After", str(error.wait_s))
            await self._show(account, error=str(error), field="present")
            return
        admission = self.sign_in.admission
        await asyncio.to_thread(admission.store.set_password, account.name, hashed, now=admission.now())
        sign_out_everywhere(self.db, self.current_user)
        self.set_login_cookie(self.current_user)
        self.log.info("%s set a password", account.name)
        await self._show(await self._account(), done=True)

    async def _account(self) -> Account:
        account = await self.sign_in.admission.find(self.current_user.name)
        if account is None:
            raise web.HTTPError(403, "You have no local account.")
        return account

    async def _show(self, account: Account, *, error: str = "", field: str = "", done: bool = False) -> None:
        html = await self.render_template(
            "password.html", account=account, error=error, field=field, done=done
        )
        self.finish(html)


class PeopleHandler(PeopleMixin, BaseHandler):  # type: ignore[misc]  # JupyterHub has no type information
    """``/hub/people``: the list, and the form that invites."""

    @web.authenticated
    @administrators_only
    async def get(self) -> None:
        acts = ("removed", "stopped", "approved", "refused", "without")
        done: dict[str, Any] = {act: self._person_named(act) for act in acts}
        await self.show_people(**done)

    def _person_named(self, act: str) -> str:
        """Of whom the address says *act*; it may come from anybody, so it says a name or nothing."""
        name: str = self.get_query_argument(act, "")
        return name if NAME_PATTERN.fullmatch(name) else ""

    @web.authenticated
    @administrators_only
    async def post(self) -> None:
        name = self.get_body_argument("name", "")
        admin = self.get_body_argument("admin", "") == "yes"
        self.check_may_touch(admin=admin)
        try:
            invited = await self.people.invite(name, admin=admin)
        except (AccountError, BadRequestError) as error:
            self.set_status(409)
            await self.show_people(error=str(error), typed=name)
            return
        await self.show_people(made=invited.link, expected="" if invited.link else invited.login)

    async def show_people(
        self, *, made: MadeLink | None = None, error: str = "", typed: str = "", **done: str
    ) -> None:
        self.set_header("Cache-Control", "no-store")
        listed = await self.list_people()
        html = await self.render_template(
            "people.html",
            waiting=[person for person in listed if person["state"] == "waiting"],
            people=[person for person in listed if person["state"] != "waiting"],
            local=self.people.local,
            label=self.people.settings.login.label,
            me=self.current_user.name,
            made=made,
            made_expires=iso_time(made.expires_at) if made else "",
            error=error,
            typed=typed,
            **done,
        )
        self.finish(html)


class DismissHandler(PeopleHandler):
    """``/hub/people/dismiss``: take everybody off the list of those who wait."""

    @web.authenticated
    @administrators_only
    async def get(self) -> None:
        self.redirect(self.hub.base_url + "people")

    @web.authenticated
    @administrators_only
    async def post(self) -> None:
        await self.people.dismiss_requests()
        self.redirect(self.hub.base_url + "people", status=303)


class PersonHandler(PeopleHandler):
    """``/hub/people/<name>/…``: a new link, stopping their sessions, and removing with its question first."""

    @web.authenticated
    @administrators_only
    async def get(self, name: str, act: str) -> None:
        if act in ("remove", "refuse"):
            await self._ask(act, name)
        else:
            self.redirect(self.hub.base_url + "people")

    @web.authenticated
    @administrators_only
    async def post(self, name: str, act: str) -> None:
        acts = {
            "reset": self._reset,
            "remove": self._remove,
            "stop": self._stop_sessions,
            "approve": self._approve,
            "refuse": self._refuse,
            "second-factor": self._take_second_factor,
        }
        await acts[act](name)

    async def _approve(self, name: str) -> None:
        try:
            await self.people.approve(name)
        except UnknownPersonError as error:
            raise web.HTTPError(404, str(error)) from error
        except AccountError as error:
            self.set_status(409)
            await self.show_people(error=str(error))
            return
        self._done(approved=name)

    async def _refuse(self, name: str) -> None:
        try:
            await self.refuse_person(name)
        except UnknownPersonError as error:
            raise web.HTTPError(404, str(error)) from error
        except LabdockError as error:
            self.set_status(409 if isinstance(error, AccountError) else 503)
            await self._ask("refuse", name, error=str(error))
            return
        self._done(refused=name)

    async def _reset(self, name: str) -> None:
        try:
            account = await self.people.get(name)
        except UnknownPersonError as error:
            raise web.HTTPError(404, str(error)) from error
        self.check_may_touch(admin=self.people.admission.is_admin(account))
        try:
            made = await self.people.reset(name)
        except AccountError as error:
            self.set_status(409)
            await self.show_people(error=str(error))
            return
        await self.show_people(made=made)

    async def _take_second_factor(self, name: str) -> None:
        try:
            await self.take_second_factor(name)
        except UnknownPersonError as error:
            raise web.HTTPError(404, str(error)) from error
        except AccountError as error:
            self.set_status(409)
            await self.show_people(error=str(error))
            return
        self._done(without=name)

    async def _remove(self, name: str) -> None:
        home = self.get_body_argument("home", "")
        if home not in ("keep", "delete"):
            self.set_status(400)
            await self._ask("remove", name, error="Choose what becomes of the home.")
            return
        try:
            await self.remove_person(name, delete_home=home == "delete")
        except UnknownPersonError as error:
            raise web.HTTPError(404, str(error)) from error
        except LabdockError as error:
            self.set_status(409 if isinstance(error, AccountError) else 503)
            await self._ask("remove", name, error=str(error))
            return
        self._done(removed=name)

    async def _stop_sessions(self, name: str) -> None:
        user = self.find_user(name)
        if user is None:
            raise web.HTTPError(404, f"There is nobody called {name!r}, or they were never here.")
        try:
            await self.stop_sessions(user)
        except HubError as error:
            self.set_status(503)
            await self.show_people(error=str(error))
            return
        self._done(stopped=name)

    def _done(self, **done: str) -> None:
        self.redirect(f"{self.hub.base_url}people?{urlencode(done)}", status=303)

    async def _ask(self, act: str, name: str, error: str = "") -> None:
        """The question before *act*, with why it could not be done."""
        try:
            account = await self.people.get(name)
        except UnknownPersonError as unknown:
            raise web.HTTPError(404, str(unknown)) from unknown
        self.finish(await self.render_template(f"{act}.html", person=account.name, error=error))
