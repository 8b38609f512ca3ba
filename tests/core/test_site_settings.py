"""The rules of the section ``site``: who brings HTTPS, and where the site is reached."""

from __future__ import annotations

from typing import Any

import pytest

from labdock.core.config import find_problems, parse
from labdock.core.settings import node_of
from labdock.core.site_settings import LETS_ENCRYPT_STAGING, Acme, CertificateFiles, Listen, Site

EVERYWHERE = "0.0.0.0"  # noqa: S104  text only
OWN = {"cert": "/etc/lab/cert.pem", "key": "/etc/lab/key.pem"}
OTHERS = {"directory": "https://acme.lab.example/dir"}
APART = {"isolate_pages": True}


def site(**values: Any) -> Site:
    return parse(node_of({"site": values})).site


def only_problem(**values: Any) -> str:
    (problem,) = find_problems(node_of({"site": values}))
    return problem.text("labdock.yaml").removeprefix("labdock.yaml ")


@pytest.mark.parametrize(
    ("given", "https", "listen", "listen_http"),
    [
        ({}, "off", "127.0.0.1:8000", None),
        ({"url": "http://localhost"}, "off", "127.0.0.1:80", None),
        ({"url": "https://gpu.example.edu"}, "auto", "0.0.0.0:443", "0.0.0.0:80"),
        ({"url": "https://gpu.example.edu:8443"}, "auto", "0.0.0.0:8443", "0.0.0.0:80"),
        ({"url": "https://gpu.example.edu", "listen": "[::]:443"}, "auto", "[::]:443", "[::]:80"),
        ({"url": "https://gpu", "https": "internal"}, "internal", "0.0.0.0:443", "0.0.0.0:80"),
        ({"url": "https://localhost:8443", "https": "internal"}, "internal", "127.0.0.1:8443", None),
        ({"url": "https://gpu", "https": "internal", "listen": "0.0.0.0:80"}, "internal", "0.0.0.0:80", None),
        ({"url": "https://localhost", "acme": OTHERS}, "auto", "127.0.0.1:443", "127.0.0.1:80"),
        ({"url": "https://gpu", "https": OWN}, CertificateFiles(**OWN), "0.0.0.0:443", "0.0.0.0:80"),
        (
            {"url": "https://gpu", "https": "off", "trusted_proxies": ["127.0.0.1"]},
            "off",
            "127.0.0.1:8000",
            None,
        ),
        ({"url": "http://gpu", "https": False, "trusted_proxies": ["::1"]}, "off", "127.0.0.1:8000", None),
        (
            {"url": "http://gpu", "trusted_proxies": ["10.0.0.5"], "listen": "10.0.0.2:80"},
            "off",
            "10.0.0.2:80",
            None,
        ),
    ],
)
def test_the_address_says_where_https_comes_from_and_where_to_listen(
    given: dict[str, Any], https: object, listen: str, listen_http: str | None
) -> None:
    found = site(**given)
    shown = str(found.listen_http) if found.listen_http else None
    assert (found.https, str(found.listen), shown) == (https, listen, listen_http)


@pytest.mark.parametrize(
    ("given", "setting", "words"),
    [
        # Nobody's password crosses the network readable.
        ({"url": "http://gpu.example.edu"}, "url", "without HTTPS"),
        ({"url": "http://192.0.2.7", "listen": "127.0.0.1:80"}, "url", "without HTTPS"),
        ({"url": "http://[::]"}, "url", "without HTTPS"),
        ({"listen": "0.0.0.0:8000"}, "listen", "without HTTPS"),
        ({"url": "https://gpu.example.edu", "https": "off"}, "https", "leaves nobody who brings HTTPS"),
        ({"url": "https://localhost", "https": "off"}, "https", "trusted_proxies: [127.0.0.1]"),
        # HTTPS needs an address for it.
        ({"https": "auto"}, "https", "needs an https address"),
        ({"url": "http://gpu", "https": "internal"}, "https", "Write url: https://gpu"),
        ({"url": "http://gpu", "https": OWN}, "https", "needs an https address"),
        # Names that the authority cannot know.
        ({"url": "https://gpu"}, "url", "is no address that Let's Encrypt"),
        ({"url": "https://192.0.2.7", "https": "auto"}, "https", "needs a name that the public DNS knows"),
        ({"url": "https://gpu.lab.local"}, "url", "https: internal"),
        ({"url": "https://gpu.home.arpa"}, "url", "acme.directory"),
        # Where the authority looks.
        (
            {"url": "https://gpu.example.edu", "listen_http": "none"},
            "listen_http",
            "nowhere to look",
        ),
        (
            {"url": "https://gpu.example.edu", "listen_http": "0.0.0.0:443"},
            "listen_http",
            "is where listen is",
        ),
        ({"url": "https://gpu.example.edu", "listen": "0.0.0.0:80"}, "listen", "is where plain HTTP"),
        ({"listen_http": "127.0.0.1:80"}, "listen_http", "goes with HTTPS alone"),
        # The authority.
        ({"acme": OTHERS}, "acme", "goes with https: auto alone, and https is off"),
        ({"url": "https://gpu", "https": OWN, "acme": OTHERS}, "acme", "https is the files of a certificate"),
        (
            {"url": "https://localhost", "acme": {**OTHERS, "staging": True}},
            "acme.staging",
            "goes with Let's Encrypt alone",
        ),
        ({"acme": {"directory": "http://acme.lab.example"}}, "acme.directory", "is not the address"),
        ({"acme": {"directory": "https://x/{env.HOME}"}}, "acme.directory", "is not the address"),
        ({"acme": {"email": "mia"}}, "acme.email", "is not an e-mail address"),
        # Files.
        ({"url": "https://gpu", "https": {"cert": "/a"}}, "https.key", "is missing"),
        ({"url": "https://gpu", "https": {**OWN, "key": "key.pem"}}, "https.key", "is not the absolute path"),
        ({"https": "letsencrypt"}, "https", "{cert: PATH, key: PATH}"),
        # Proxies.
        ({"trusted_proxies": ["nginx"]}, "trusted_proxies[0]", "Names are not taken"),
        ({"trusted_proxies": ["0.0.0.0/0"]}, "trusted_proxies[0]", "is everybody"),
        ({"trusted_proxies": ["10.0.0.5/8"]}, "trusted_proxies[0]", "Write 10.0.0.0/8"),
        ({"trusted_proxies": ["1::2::3"]}, "trusted_proxies[0]", "is neither"),
        (
            {"url": "https://gpu", "https": "off", "trusted_proxies": ["10.0.0.5"]},
            "trusted_proxies",
            "site.listen: ADDRESS:8000",
        ),
        (
            {
                "url": "https://gpu",
                "https": "off",
                "trusted_proxies": ["127.0.0.1"],
                "listen": "0.0.0.0:8000",
            },
            "trusted_proxies",
            "cannot all be told from this machine",
        ),
        (
            {"url": "https://gpu.example.edu", "trusted_proxies": ["127.0.0.1"]},
            "trusted_proxies",
            "Write listen: 127.0.0.1:443",
        ),
        # A host for each person.
        ({"isolate_pages": True}, "isolate_pages", "needs an https address"),
        ({**APART, "url": "https://gpu.example.edu"}, "isolate_pages", "*.gpu.example.edu by https: {cert"),
        (
            {**APART, "url": "https://gpu.example.edu", "acme": OTHERS},
            "isolate_pages",
            "which https: auto cannot have",
        ),
        ({**APART, "url": "https://192.0.2.7", "https": "internal"}, "isolate_pages", "a name with a dot"),
        ({**APART, "url": "https://gpu", "https": OWN}, "isolate_pages", "a name with a dot"),
        (
            {**APART, "url": f"https://{'a.' * 95}example.edu", "https": OWN},
            "isolate_pages",
            "has 201 characters",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_way_out(
    given: dict[str, Any], setting: str, words: str
) -> None:
    text = only_problem(**given)
    assert text.startswith(f"site.{setting}: ")
    assert words in text


@pytest.mark.parametrize("address", ["8000", "localhost:80", "127.0.0.1:0", "[1::2::3]:80", "off", ""])
def test_listen_http_takes_an_address_with_a_port_or_none(address: str) -> None:
    text = only_problem(url="https://gpu", https="internal", listen_http=address)
    assert text.startswith(f'site.listen_http: "{address}" ')


def test_networks_are_kept_in_one_form() -> None:
    found = site(trusted_proxies=["10.0.0.5/32", "10.0.0.0/8", "2001:DB8::5", "::1/128"])
    assert found.trusted_proxies == ("10.0.0.5", "10.0.0.0/8", "2001:db8::5", "::1")


def test_the_authority_may_write_to_the_contact_if_that_is_an_address() -> None:
    url = "https://gpu.example.edu"
    assert site(url=url, contact="mia@lab.example").acme_email == "mia@lab.example"
    assert site(url=url, contact="Mia, room 3 {env.HOME}").acme_email == ""
    assert site(url=url, contact="mia@lab.example", acme={"email": "a@b.example"}).acme_email == "a@b.example"


def test_staging_is_another_directory() -> None:
    assert site(url="https://gpu.example.edu", acme={"staging": True}).acme_directory == LETS_ENCRYPT_STAGING
    assert Acme().staging is False


def test_two_places_meet_when_both_cannot_be_listened_on() -> None:
    assert Listen(EVERYWHERE, 80).meets(Listen("127.0.0.1", 80))
    assert Listen("127.0.0.1", 80).meets(Listen("127.0.0.1", 80))
    assert not Listen("127.0.0.1", 80).meets(Listen("127.0.0.2", 80))
    assert not Listen(EVERYWHERE, 80).meets(Listen("127.0.0.1", 81))


def test_pages_share_a_host_unless_each_person_shall_have_one() -> None:
    assert site(url="https://gpu.example.edu").people_hosts == ""
    own = site(url="https://gpu.example.edu", https=OWN, **APART)
    assert own.people_hosts == "*.gpu.example.edu"
    # The administrator's one certificate is for both; the site's own authority makes two.
    assert own.shown_names == ("gpu.example.edu", "*.gpu.example.edu")
    assert site(url="https://gpu.example.edu", https="internal", **APART).shown_names == ("gpu.example.edu",)
