"""What the hub tells browsers, and what it refuses of them: headers, cookies, forged forms, other sites."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import aiohttp
import pytest
import pytest_asyncio
from jupyterhub.apihandlers.auth import OAuthTokenHandler, TokenAPIHandler
from jupyterhub.handlers.base import BaseHandler, CSPReportHandler

from labdock.core.login import AccessRules
from labdock.hub import web_edge
from labdock.hub.pages import HERE
from labdock.hub.sign_in import SignIn
from labdock.hub.web_edge import BODY_MAX_BYTES, Guarded, ScriptNonces
from tests.hub.conftest import GOOD, PUBLIC_URL, SETTINGS, Answer, Browser, Hub, running_hub

on_a_hub = pytest.mark.asyncio(loop_scope="module")

RULES = AccessRules(admins=("mia",), approve=True)
PAGES = ("/hub/login", "/hub/sign-up", "/hub/waiting", "/hub/link/nonsense", "/hub/nothing-here")
PAGES_INSIDE = ("/hub/home", "/hub/spawn", "/hub/password", "/hub/people", "/hub/token", "/hub/admin")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(tmp_path_factory: Any) -> AsyncIterator[Hub]:
    async with running_hub(tmp_path_factory.mktemp("hub"), RULES) as running:
        yield running


def policy(answer: Answer) -> dict[str, str]:
    """The content security policy of *answer*, by directive."""
    rules = (rule.strip().partition(" ") for rule in answer.headers["Content-Security-Policy"].split(";"))
    return {name: value for name, _, value in rules}


# --- headers ---


@on_a_hub
async def test_every_page_says_what_it_may_load_and_who_may_frame_it(hub: Hub) -> None:
    inside, outside = await hub.member("head", admin=True), hub.browser()
    nonces = set()
    for browser, paths in ((outside, PAGES), (inside, (*PAGES_INSIDE, "/hub/nothing-here"))):
        for path in paths:
            answer = await browser.get(path)
            assert answer.text, path
            rules = policy(answer)
            assert rules["default-src"] == "'self'", path
            assert rules["frame-ancestors"] == rules["base-uri"] == rules["object-src"] == "'none'", path
            assert rules["form-action"] == f"'self' {PUBLIC_URL}", path
            assert "unsafe" not in rules["script-src"], path
            nonces.add(rules["script-src"])
            scripts = re.findall(r"<script\b[^>]*>", answer.text)
            assert scripts, path
            nonce = re.search(r"'nonce-([^']+)'", rules["script-src"])
            assert nonce
            assert all(f'nonce="{nonce.group(1)}"' in script for script in scripts), path
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "camera=()" in answer.headers["Permissions-Policy"]
            strict = "no-referrer" if "/link/" in path else "same-origin"
            assert answer.headers["Referrer-Policy"] == strict
    assert len(nonces) == len(PAGES) + len(PAGES_INSIDE) + 1


@on_a_hub
async def test_the_api_s_answers_may_load_nothing(hub: Hub) -> None:
    answer = await hub.api("GET", "/labdock/users")
    assert policy(answer)["default-src"] == policy(answer)["form-action"] == "'none'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@on_a_hub
async def test_no_file_is_taken_for_something_else(hub: Hub) -> None:
    for path in (
        "/hub/static/js/darkmode.js",
        "/hub/labdock/labdock.css",
        "/hub/labdock/icon.svg",
    ):
        answer = await hub.browser().get(path)
        assert answer.status == 200, path
        assert answer.headers["X-Content-Type-Options"] == "nosniff", path


@on_a_hub
async def test_every_handler_of_the_hub_is_guarded(hub: Hub) -> None:
    loose = [
        handler.__name__
        for _, handler, *_ in hub.app.handlers
        if issubclass(handler, BaseHandler) and not issubclass(handler, Guarded)
    ]
    assert not loose


def test_what_a_template_is_filled_with_gets_no_nonce() -> None:
    from jinja2 import Environment  # noqa: PLC0415  only here

    environment = Environment(autoescape=True, extensions=[ScriptNonces])
    text = '<script src="a"></script><script>1</script>{{ typed | safe }}'
    made = environment.from_string(text).render(csp_nonce="n", typed="<script>evil</script>")
    assert made == '<script nonce="n" src="a"></script><script nonce="n">1</script><script>evil</script>'


# --- cookies ---


def cookies(answer: Answer) -> dict[str, str]:
    """What *answer* sets, by name, in lower case; cleared ones left out."""
    found = {}
    for line in answer.headers.getall("Set-Cookie", []):
        name, _, rest = line.partition("=")
        if not rest.startswith('""'):
            found[name] = rest.lower()
    return found


@on_a_hub
async def test_cookies_are_for_this_site_and_not_for_scripts(hub: Hub) -> None:
    link = await hub.invite("cook")
    browser = hub.browser()
    set_here = cookies(await browser.get(urlsplit(link).path)) | cookies(await browser.use_link(link, GOOD))
    assert {"_xsrf", "jupyterhub-hub-login", "jupyterhub-session-id", "labdock-known"} <= set(set_here)
    for name, cookie in set_here.items():
        assert "httponly" in cookie, name
        assert "samesite=lax" in cookie, name
        assert "secure" not in cookie, name
    for name in ("_xsrf", "jupyterhub-hub-login", "labdock-known"):
        assert "path=/hub/" in set_here[name], name


@pytest.mark.programs
@on_a_hub
async def test_on_https_cookies_are_for_https_alone(tmp_path: Path) -> None:
    settings = replace(SETTINGS, public_url="https://lab.example")
    async with running_hub(tmp_path, RULES, settings) as hub:
        browser = hub.browser()
        link = urlsplit(await hub.invite("cook"))
        assert link.scheme == "https"
        page = await browser.get(link.path)
        raw = "; ".join(line.split(";")[0] for line in page.headers.getall("Set-Cookie"))
        fields = {"_xsrf": page.xsrf(), "password": GOOD}
        entered = await browser.post(link.path, fields, headers={"Cookie": raw})
        assert entered.status == 303, entered.text
        set_here = cookies(page) | cookies(entered)
        assert {"_xsrf", "jupyterhub-hub-login", "jupyterhub-session-id", "labdock-known"} <= set(set_here)
        for name, cookie in set_here.items():
            assert "; secure" in cookie, name
        asked = await browser.get("/hub/sign-up")
        raw = "; ".join(line.split(";")[0] for line in asked.headers.getall("Set-Cookie"))
        fields = {"_xsrf": asked.xsrf(), "password": GOOD, "name": "late"}
        waits = await browser.post("/hub/sign-up", fields, headers={"Cookie": raw})
        assert "; secure" in cookies(waits)["labdock-waiting"]


# --- forged forms ---

EXEMPT = {
    # Browsers send these reports by themselves; nothing changes.
    CSPReportHandler,
    # Programs show a secret of their own here; a browser's cookie counts for nothing.
    OAuthTokenHandler,
    # An old way to check a token; it only tells what the token itself may know.
    TokenAPIHandler,
}


def sample(pattern: str) -> str:
    """A path that *pattern*, a handler's, matches."""
    path = re.sub(r"\(\?P<[^>]*>", "(", pattern).removesuffix("$")
    path = re.sub(r"\(([a-z]+)\|[a-z|-]+\)", r"\1", path)
    return (
        re.sub(r"\((?:\[\^/\]\+|\.\*|\.\+|\[\^/\]\*)\)\??", "forge", path).replace("/?", "").replace("\\", "")
    )


@on_a_hub
async def test_nothing_that_a_cookie_allows_is_done_without_the_token_of_a_page(hub: Hub) -> None:
    browser = await hub.member("forge", admin=True)
    before = hub.store.everybody()
    tried, wrong = 0, []
    for pattern, handler, *_ in hub.app.handlers:
        if not issubclass(handler, BaseHandler) or set(handler.__mro__) & EXEMPT:
            continue
        for method in ("post", "put", "delete", "patch"):
            # tornado's own answers 405.
            if getattr(handler, method) is getattr(aiohttp_free_base(), method):
                continue
            path = sample(pattern)
            assert re.fullmatch(pattern.removesuffix("$"), path), (pattern, path)
            for headers in ({}, {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Site": "cross-site"}):
                data: dict[str, Any] = (
                    {"json": {"name": "forged"}} if "/api/" in path else {"data": {"name": "forged"}}
                )
                answer = await browser.ask(method.upper(), path, headers=headers, **data)
                tried += 1
                if answer.status not in (403, 405):
                    wrong.append((method, path, headers, answer.status))
    assert not wrong
    assert tried > 60
    assert hub.store.everybody() == before
    assert await browser.who() == "forge"


def aiohttp_free_base() -> Any:
    from tornado.web import RequestHandler  # noqa: PLC0415  only here

    return RequestHandler


@pytest.mark.parametrize("template", sorted((HERE / "templates").glob("*.html")), ids=lambda path: path.name)
def test_every_form_that_changes_something_carries_the_token(template: Path) -> None:
    text = template.read_text()
    for form in re.findall(r"<form\b[^>]*\bmethod=\"post\".*?</form>", text, re.DOTALL):
        assert re.search(r'<input type="hidden" name="_xsrf" value="\{\{ xsrf \}\}">', form), form
    assert not re.search(r'method="(?!post|get)', text)
    # An attribute of that kind would not run.
    assert not re.search(r"\son[a-z]+=", text)


@on_a_hub
async def test_the_token_of_another_browser_is_worth_nothing(hub: Hub) -> None:
    mine, theirs = await hub.member("xena", admin=True), await hub.member("xavi", admin=True)
    form = await theirs.get("/hub/people")
    answer = await mine.post("/hub/people", {"_xsrf": form.xsrf(), "name": "forged"})
    assert answer.status == 403


# --- other sites ---

ELSEWHERE = (
    *("https://evil.example/", "//evil.example/", "///evil.example", "////evil.example", "/\\evil.example"),
    *(
        "\\\\evil.example",
        "/\\/evil.example",
        "https:evil.example",
        "http:///evil.example",
        "%2f%2fevil.example",
    ),
    *("/%2f/evil.example", "/\t/evil.example", "\t//evil.example", " //evil.example", "/\n/evil.example"),
    *(
        "https://lab.example:8000@evil.example/",
        "http://lab.example:8000.evil.example/",
        "javascript:alert(1)",
    ),
    *("http://lab.example:8000\\@evil.example", "/hub/../..//evil.example", "//user:pass@evil.example/x"),
    *(
        "http://evil.example/http://lab.example:8000/",
        "data:text/html,x",
        "/\x00/evil.example",
        "／／evil.example",
    ),
)


def leads_elsewhere(location: str) -> bool:
    """Whether a browser at PUBLIC_URL that is sent to *location* leaves the site."""
    # As browsers read it: without tabs and line ends, backslashes as slashes.
    read = re.sub(r"[\t\r\n]", "", location).strip().replace("\\", "/")
    read = "//" + read.lstrip("/") if read.startswith("///") else read
    target = urlsplit(urljoin(PUBLIC_URL + "/hub/login", read))
    return (target.scheme, target.netloc) != tuple(urlsplit(PUBLIC_URL)[:2])


@on_a_hub
@pytest.mark.parametrize("target", ELSEWHERE)
async def test_no_way_through_the_pages_leads_to_another_site(hub: Hub, target: str) -> None:
    if hub.store.find("next") is None:
        await hub.member("next")
    query = f"?next={quote(target, safe='')}"
    browser = hub.browser()
    answers = [await browser.sign_in("next", GOOD, query=query)]
    assert answers[0].status == 302
    # Signed in already; and on the way out.
    answers += [
        await browser.get(path + query) for path in ("/hub/login", "/hub/sign-up", "/hub/logout", "/hub/")
    ]
    made = await hub.api("POST", "/labdock/first-link", json={})
    path = urlsplit(made.json["link"]).path
    other = hub.browser()
    page = await other.get(path + query)
    answers.append(await other.post(path + query, {"_xsrf": page.xsrf()}))
    stranger = hub.browser(f"192.0.2.{ELSEWHERE.index(target) + 1}")
    page = await stranger.get("/hub/sign-up" + query)
    fields = {"_xsrf": page.xsrf(), "name": "stranger", "password": GOOD}
    answers.append(await stranger.post("/hub/sign-up" + query, fields))
    for answer in answers:
        assert answer.status in (302, 303), answer.text
        location = answer.headers["Location"]
        assert not leads_elsewhere(location), location


def test_the_test_itself_knows_other_sites() -> None:
    told = [leads_elsewhere(target) for target in ELSEWHERE[:9]]
    assert all(told[:7])
    assert not leads_elsewhere("/hub/spawn?next=//evil.example")
    assert not leads_elsewhere(PUBLIC_URL + "/hub/")


@on_a_hub
async def test_a_forged_host_is_told_nowhere(hub: Hub) -> None:
    browser = hub.browser()
    forged = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"}
    await hub.invite("hosty")
    for path in (
        "/hub/login",
        "/hub/sign-up",
        "/hub/home",
        "/hub/link/nonsense",
        "/hub/user/hosty/lab",
        "/hub/",
    ):
        answer = await browser.get(path, headers=forged)
        assert "evil.example" not in answer.text, path
        assert "evil.example" not in answer.headers.get("Location", ""), path
        assert not any("evil" in line for line in answer.headers.getall("Set-Cookie", [])), path
    for path, body in (("users", {"name": "hostess"}), ("users/hosty/reset", {}), ("first-link", {})):
        made = await hub.api("POST", f"/labdock/{path}", json=body, headers=forged)
        assert made.json["link"].startswith(PUBLIC_URL + "/hub/link/"), path


# --- who is here ---


@on_a_hub
async def test_a_stranger_cannot_tell_which_names_there_are(hub: Hub) -> None:
    await hub.member("enum")
    for path in (
        "/hub/user/{}",
        "/hub/user/{}/lab",
        "/hub/spawn/{}",
        "/user/{}/lab",
        "/hub/spawn-pending/{}",
    ):
        answers = [await hub.browser().get(path.format(name)) for name in ("enum", "none")]
        assert answers[0].status == answers[1].status, path
        told = [
            a.headers.get("Location", "").replace(name, "X")
            for a, name in zip(answers, ("enum", "none"), strict=True)
        ]
        assert told[0] == told[1], path
    for path in ("/hub/api/users/{}", "/hub/api/labdock/users/{}", "/hub/api/users/{}/server"):
        answers = [await hub.browser().get(path.format(name)) for name in ("enum", "none")]
        assert answers[0].status == answers[1].status, path


@on_a_hub
async def test_an_unknown_name_takes_as_long_as_a_wrong_password(hub: Hub) -> None:
    await hub.member("timed")
    # With passwords as expensive as in earnest, which is what could be measured from outside.
    admission = hub.sign_in.admission
    sign_in = SignIn(admission)
    admission.store.set_password("timed", await sign_in.hash(GOOD, name="timed"), now=admission.now())
    seconds: dict[str, list[float]] = {"timed": [], "nobody": [], "NOT a name": []}
    for i in range(8):
        for name, taken in seconds.items():
            began = time.perf_counter()
            assert await sign_in.check(name, "not this one", f"203.0.113.{100 + i}") is None
            taken.append(time.perf_counter() - began)
    known, *unknown = (min(taken) for taken in seconds.values())
    assert all(0.5 < each / known < 2 for each in unknown)


# --- what was revoked ---


@on_a_hub
async def test_a_stolen_cookie_and_a_token_die_with_their_owner_s_rights(hub: Hub) -> None:
    browser = await hub.member("gone")
    token = (await hub.api("POST", "/users/gone/tokens", json={})).json["token"]
    assert (await hub.api("GET", "/user", token=token)).status == 200
    page = await browser.get("/hub/spawn")
    thief = hub.browser()
    thief.http.cookie_jar.update_cookies({c.key: c.value for c in browser.http.cookie_jar})
    assert await thief.who() == "gone"
    assert (await hub.api("POST", "/labdock/users/gone/refuse")).status == 200
    for who in (browser, thief):
        assert await who.who() == ""
        forged = await who.ask("POST", "/hub/api/users/gone/tokens", headers={"X-XSRFToken": page.xsrf()})
        assert forged.status == 403
    assert (await hub.api("GET", "/user", token=token)).status == 403
    # Let in again: what was stolen before stays dead.
    assert (await hub.api("POST", "/labdock/users/gone/approve")).status == 200
    assert await thief.who() == ""
    assert (await hub.api("GET", "/user", token=token)).status == 403


# --- large bodies ---


@on_a_hub
async def test_a_huge_password_is_refused_before_it_is_read(hub: Hub) -> None:
    browser = hub.browser()
    page = await browser.get("/hub/login")
    began = time.perf_counter()
    refused = await send(
        browser, "/hub/login", {"_xsrf": page.xsrf(), "username": "a", "password": "x" * 10**7}
    )
    assert refused
    assert time.perf_counter() - began < 5
    assert (await browser.get("/hub/login")).status == 200


@on_a_hub
async def test_a_large_password_is_refused_without_work(hub: Hub) -> None:
    large = "x" * (BODY_MAX_BYTES - 10_000)
    answer = await hub.browser().sign_in("nobody", large)
    assert answer.status == 403
    assert large[:1000] not in answer.text
    link = await hub.invite("large")
    refused = await hub.browser().use_link(link, large)
    assert refused.status == 400
    assert "more than a thousand characters" in refused.text


async def send(browser: Browser, path: str, fields: dict[str, str]) -> bool:
    """Whether the hub refused to read *fields*."""
    try:
        answer = await browser.post(path, fields)
    except (TimeoutError, aiohttp.ClientError, ConnectionError):
        return True
    return answer.status in (400, 413)


def test_on_one_host_no_cookie_of_the_hub_goes_to_sessions() -> None:
    assert "path" not in web_edge.cookie_options("https://lab.example")


@pytest.mark.programs
@on_a_hub
async def test_with_a_host_for_each_person_a_cookie_is_the_hubs_own_and_sessions_are_found_there(
    tmp_path: Path,
) -> None:
    settings = replace(SETTINGS, public_url="https://lab.example", isolate_pages=True)
    async with running_hub(tmp_path, RULES, settings) as hub:
        link = await hub.invite("ada.b")
        browser = hub.browser()
        page = await browser.get(urlsplit(link).path)
        raw = "; ".join(line.split(";")[0] for line in page.headers.getall("Set-Cookie"))
        fields = {"_xsrf": page.xsrf(), "password": GOOD}
        entered = await browser.post(urlsplit(link).path, fields, headers={"Cookie": raw})
        assert "path=/" in cookies(entered)["__Host-jupyterhub-hub-login"]
        assert "domain" not in cookies(entered)["__Host-jupyterhub-hub-login"]
        assert hub.app.users["ada.b"].proxy_spec == "ada--b.lab.example/user/ada.b/"
        # Whose session does not run is led to the site's own page about it.
        away = await browser.get("/user/ada.b/lab")
        assert away.headers["Location"] == "https://lab.example/hub/user/ada.b/lab"
