"""What every answer of the hub tells the browser: where scripts come from and forms go to; and cookies.

JupyterHub has no setting that reaches all its pages, its error pages among them: so each of its handlers, and
each of ours, gets the same on top.
"""

from __future__ import annotations

import functools
import re
import secrets
from collections.abc import Iterator
from typing import Any

from jinja2.ext import Extension
from jupyterhub.apihandlers.auth import OAuthAuthorizeHandler
from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.handlers.base import BaseHandler
from jupyterhub.handlers.pages import AdminHandler
from jupyterhub.user import User

from labdock.core.people import host_label
from labdock.hub.moved import leads_to_moved

BODY_MAX_BYTES = 2**20
"""What a request to the hub may send at most. Its forms and calls are small; files go to sessions."""

HEADERS = {
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
}

NOTHING = ("default-src 'none'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'")


def page_policy(nonce: str, *, form_targets: str = "", inline_styles: bool = False) -> tuple[str, ...]:
    """What a page of the hub may load and where its forms may lead, as directives.

    Only scripts that bear *nonce* run, or those that they load from this site; JupyterHub's pages have
    scripts in them. Its templates also have attributes ``style``, which change only looks.
    *form_targets* are further places that a form may lead to, by redirects too.
    """
    return (
        "default-src 'self'",
        f"script-src 'self' 'nonce-{nonce}'",
        "script-src-attr 'none'",
        "style-src 'self' 'unsafe-inline'" if inline_styles else "style-src 'self'",
        "style-src-attr 'unsafe-inline'",
        # Bootstrap draws its arrows and ticks by data: in its style sheet.
        "img-src 'self' data:",
        "object-src 'none'",
        "base-uri 'none'",
        f"form-action 'self' {form_targets}".rstrip(),
        "frame-ancestors 'none'",
    )


class WithHeaders:
    """On top of any handler: the headers that all answers have."""

    def set_default_headers(self: Any) -> None:
        super().set_default_headers()  # type: ignore[misc]  # of the handler below
        for name, value in HEADERS.items():
            # A page may be stricter.
            if name not in self._headers:
                self.set_header(name, value)


class Guarded(WithHeaders):
    """On top of a page or a call of the hub: its content security policy, and where it leads people next.

    Templates get ``csp_nonce``.
    """

    @functools.cached_property
    def csp_nonce(self) -> str:
        return secrets.token_urlsafe(16)

    @property
    def content_security_policy(self: Any) -> str:
        rules = (
            NOTHING
            if isinstance(self, APIHandler)
            else page_policy(
                self.csp_nonce,
                form_targets=" ".join(form_targets(self)),
                # React puts the styles of JupyterHub's page for administrators into it.
                inline_styles=isinstance(self, AdminHandler),
            )
        )
        return "; ".join((*rules, f"report-uri {self.csp_report_uri}"))

    def get_next_url(self: Any, user: Any = None, **default: Any) -> str:
        """Where whoever signed in, or asks for what they have already, is led; OAuth takes no *default*."""
        url: str = super().get_next_url(user, **default)  # type: ignore[misc]  # of the handler below
        person = user or self.current_user
        base: str = self.hub.base_url
        # A service may ask too, and has no sessions.
        return f"{base}home" if isinstance(person, User) and leads_to_moved(url, person, base) else url

    @property
    def template_namespace(self) -> dict[str, Any]:
        below: dict[str, Any] = super().template_namespace  # type: ignore[misc]  # as above
        return below | {"csp_nonce": self.csp_nonce}


def form_targets(handler: Any) -> Iterator[str]:
    """Where a form on the page of *handler* may lead beside the page's own address, by redirects too."""
    if isinstance(handler, OAuthAuthorizeHandler):
        # Whoever lets a service know them is led to it, wherever it is.
        yield from ("http:", "https:")
        return
    public = handler.settings.get("public_url")
    if public:
        # A session that is opened next leads there and back, whatever the site was called in the browser.
        yield f"{public.scheme}://{public.netloc}"
    if handler.subdomain_host:
        scheme, _, host = handler.subdomain_host.partition("://")
        yield f"{scheme}://*.{host}"


@functools.cache
def guarded(handler: type) -> type:
    """*handler* with :class:`Guarded` on top, or, where it only serves files, with the headers."""
    if issubclass(handler, WithHeaders):
        return handler
    top = Guarded if issubclass(handler, BaseHandler) else WithHeaders
    return type(handler.__name__, (top, handler), {"__module__": handler.__module__})


class ScriptNonces(Extension):
    """Gives the scripts in templates the nonce. What a template is filled with gets none."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return re.sub(r"<script\b(?![^>]*\bnonce=)", '<script nonce="{{ csp_nonce }}"', source)


def person_host(name: str, domain: str, kind: str) -> str:
    """The host of what *name* runs below *domain*, as JupyterHub asks for it.

    JupyterHub's own way keeps 28 bits of a name that is no label, so that somebody could find another's host.
    """
    return f"{host_label(name)}.{domain}" if kind == "user" else f"0-{name}.{domain}"


def host_traits(public_url: str, *, isolate_pages: bool) -> dict[str, Any]:
    """What JupyterHub is told of the hosts that people come to: one for all, or one below it for each."""
    shared = {"public_url": f"{public_url}/"}
    if not isolate_pages:
        return shared
    return {
        **shared,
        "subdomain_host": public_url,
        "subdomain_hook": person_host,
        # What one person's host sets for the whole domain is then taken for nobody's sign-in.
        "cookie_host_prefix_enabled": True,
    }


def cookie_options(public_url: str) -> dict[str, Any]:
    """What JupyterHub sets its cookies with, at the hub and at sessions.

    No prefix ``__Host-`` where pages share a host: such a cookie goes to every path of it, so that whichever
    session somebody visits would be handed the one that opens the hub; there the path protects more.
    """
    options: dict[str, Any] = {"httponly": True, "samesite": "Lax"}
    return options | {"secure": True} if public_url.startswith("https:") else options
