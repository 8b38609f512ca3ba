"""Made-up files for the tests of the configuration: valid ones, nearly valid ones, and any tree at all."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from labdock.core.config import DECLARATION
from labdock.core.people import RESERVED_NAMES
from labdock.core.settings import Entry, Items, Node, Record, Scalar, Table

Files = st.SearchStrategy[dict[str, Any]]

lines_of_text = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=40
)
names = st.from_regex(r"[a-z][a-z0-9]{0,8}(?:[._-][a-z0-9]{1,5})?", fullmatch=True).filter(
    lambda name: name not in RESERVED_NAMES
)
ports = st.integers(1, 65535)
_ports_or_none = st.one_of(st.just(""), st.just("/"), ports.map(":{}".format))
_local_hosts = st.sampled_from(["localhost", "127.0.0.1", "127.8.9.10", "[::1]"])
_public_hosts = st.sampled_from(["gpu.example.edu", "GPU.Example.edu", "1.example"])
_any_hosts = _public_hosts | st.sampled_from(["GPU", "192.0.2.7", "[2001:db8::1]"])
_local_listens = st.builds("{}:{}".format, st.sampled_from(["127.0.0.1", "127.8.9.10", "[::1]"]), ports)
_open_listens = st.builds("{}:{}".format, st.sampled_from(["0.0.0.0", "[::]", "192.0.2.7"]), ports)  # noqa: S104  # text only
_some_proxies = st.sampled_from([["10.0.0.5"], ["10.1.0.0/16", "2001:db8::5"]])
_own_https: st.SearchStrategy[Any] = st.sampled_from(
    ["internal", {"cert": "/etc/ssl/lab.pem", "key": "/etc/ssl/lab.key"}]
)
_proxies: st.SearchStrategy[list[str]] = st.just([]) | _some_proxies


def _urls(scheme: str, hosts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds("{}://{}{}".format, st.just(scheme), hosts, _ports_or_none)


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def some_of(**values: st.SearchStrategy[Any]) -> Files:
    """Mappings with some of the keys."""
    return st.fixed_dictionaries({}, optional=values)


def sites() -> Files:
    """The section site, in every way that is taken."""
    text = {"name": lines_of_text, "contact": st.just("") | lines_of_text}
    local = some_of(
        url=_urls("http", _local_hosts),
        https=st.just("off"),
        listen=_local_listens,
        listen_http=st.just("none"),
    )
    behind = st.fixed_dictionaries(
        {
            "url": _urls("http", _any_hosts) | _urls("https", _any_hosts | _local_hosts),
            "https": st.sampled_from(["off", False]),
            "listen": _open_listens,
            "trusted_proxies": _some_proxies,
        }
    )
    on_this_machine = st.fixed_dictionaries(
        {
            "url": _urls("https", _any_hosts),
            "https": st.just("off"),
            "trusted_proxies": st.just(["127.0.0.1", "10.0.0.5"]),
            "listen": _local_listens,
        }
    )
    # Ports apart, so that the two listens never meet.
    places = {
        "listen": st.sampled_from(["0.0.0.0:443", "[::]:8443", "127.0.0.1:8443"]),  # text only
        "trusted_proxies": _proxies,
    }
    issued = st.fixed_dictionaries(
        {"url": _urls("https", _public_hosts)},
        optional={
            **places,
            "https": st.just("auto"),
            "listen_http": st.just("0.0.0.0:8080"),
            "acme": some_of(
                staging=st.booleans(), email=st.just("a@lab.example"), eab_key_id=st.just("kid-1")
            ),
        },
    )
    by_others = st.fixed_dictionaries(
        {
            "url": _urls("https", _any_hosts),
            "listen": st.just("0.0.0.0:443"),
            "acme": st.just({"directory": "https://10.0.0.1:14000/dir", "authority": "/etc/ssl/campus.pem"}),
        }
    )
    own = st.fixed_dictionaries(
        {
            "url": _urls("https", _any_hosts | _local_hosts),
            "listen": st.just("0.0.0.0:443"),
            "https": _own_https,
        },
        optional={"listen_http": st.sampled_from(["none", "0.0.0.0:80"])},
    )
    isolated = st.fixed_dictionaries(
        {
            "url": _urls("https", st.sampled_from(["gpu.example.edu", "GPU.Example.edu", "lab.localhost"])),
            "isolate_pages": st.just(True),
        },
    )
    anywhere = st.fixed_dictionaries({"listen": st.just("0.0.0.0:443"), "https": _own_https})
    behind_others = st.fixed_dictionaries(
        {"https": st.just("off"), "listen": _open_listens, "trusted_proxies": _some_proxies}
    )
    apart = st.tuples(isolated, anywhere | behind_others).map(lambda drawn: {**drawn[0], **drawn[1]})
    kinds = local | behind | on_this_machine | issued | by_others | own | apart
    return st.tuples(kinds, some_of(**text)).map(lambda drawn: {**drawn[0], **drawn[1]})


def _limits() -> Files:
    memories: list[dict[str, Any]] = [
        {},
        {"memory": "none"},
        {"memory": "none", "shm": "16G"},
        {"memory": "64G", "shm": "16.25G"},
        {"memory": 2**40},
        {"shm": "8G"},
    ]
    others = some_of(
        cpus=st.just("none") | st.integers(1, 512) | st.floats(0.1, 512), pids=st.integers(64, 100_000)
    )
    return st.tuples(st.sampled_from(memories), others).map(lambda drawn: {**drawn[0], **drawn[1]})


def _gpus() -> Files:
    shares: st.SearchStrategy[Any] = st.sampled_from(["exclusive", "all", "mig"]) | st.builds(
        lambda seats: {"seats": seats}, st.integers(2, 1000)
    )
    number = st.just("none") | st.integers(0, 1024)
    words = ["0", "GPU-8f0c", "A100"]
    cards = st.lists(st.sampled_from(words), unique=True).flatmap(
        lambda names: st.tuples(
            *(
                st.fixed_dictionaries({"card": st.just(n), "share": shares}, optional={"use": st.booleans()})
                | st.fixed_dictionaries({"card": st.just(n), "use": st.just(False)})
                for n in names
            )
        ).map(list)
    )
    limit = st.sampled_from(
        [
            {"people": ["ada"], "cards": 2},
            {"groups": ["students", "PhD students"], "cards": 1, "together": 4},
            {"groups": ["staff"], "together": 0, "cards": "none"},
        ]
    )
    return some_of(
        share=shares,
        cards=cards,
        per_session=st.integers(1, 1024),
        per_person=number,
        limits=st.lists(limit, unique_by=str, max_size=3),
        place=st.sampled_from(["spread", "pack"]),
        inject=st.sampled_from(["auto", "cdi", "nvidia", "devices"]),
    )


def _images(ids: list[str]) -> st.SearchStrategy[list[dict[str, Any]]]:
    images = [
        st.fixed_dictionaries(
            {"id": st.just(id)},
            optional={
                "label": lines_of_text,
                "base": st.sampled_from(
                    ["builtin/cpu", "builtin/torch", "nvidia/cuda:13.0.1-devel", "lab/x"]
                ),
                "apt": st.lists(st.sampled_from(["ffmpeg", "g++", "libgl1=1.7.0-1"]), unique=True),
                "pip": st.lists(
                    st.sampled_from(["einops", "ray[tune]>=2", "x @ https://l.org/x"]), unique=True
                ),
                "conda": st.lists(st.sampled_from(["r-base", "gdal =3.10", "bioconda::x"]), unique=True),
                "files": st.sampled_from([None, "images/vision", "/srv/images"]),
                "dockerfile": st.sampled_from([None, "images/robot/Dockerfile"]),
            },
        )
        for id in ids
    ]
    default = st.sampled_from([None, *range(len(ids))])
    return st.tuples(st.tuples(*images), default).map(
        lambda drawn: [
            {**image, "default": index == drawn[1]} if drawn[1] is not None else image
            for index, image in enumerate(drawn[0])
        ]
    )


def _shared(folders: list[str]) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.tuples(
        *(
            st.fixed_dictionaries(
                {"name": st.just(name)},
                optional={
                    "path": st.sampled_from([None, "/mnt/data", "/mnt/data/", f"/mnt/ü {name}"]),
                    "write": st.sampled_from(["nobody", "admins", "everybody"]),
                },
            )
            for name in folders
        )
    ).map(list)


def _logins() -> Files:
    admins = st.lists(names, min_size=1, max_size=3, unique=True)
    provider = {"client_id": st.sampled_from(["Iv1.a", "0-a.apps"]), "admins": admins}
    people = st.lists(st.sampled_from(["kim", "Lee-2", "jo@lab.example"]), unique=True)
    return st.one_of(
        some_of(method=st.just("local"), admins=admins, approve=st.booleans()),
        st.fixed_dictionaries(
            {"method": st.just("github"), **provider},
            optional={
                "organizations": st.lists(st.sampled_from(["vision-lab", "Chem"]), unique=True),
                "teams": st.lists(st.sampled_from(["vision-lab:gpu", "Chem:all_1"]), unique=True),
                "people": st.lists(st.sampled_from(["kim", "Lee-2"]), unique=True),
                "server": st.sampled_from([None, "https://github.lab.example"]),
            },
        ),
        st.fixed_dictionaries(
            {"method": st.just("oidc"), "server": st.just("https://login.lab.example/realms/a"), **provider},
            optional={
                "groups": st.lists(st.sampled_from(["staff", "/gpu users"]), unique=True),
                "people": people,
                "oidc": some_of(groups_claim=st.just("realm_access.roles"), scopes=st.just(["groups"])),
                "label": st.sampled_from(["", "Example University"]),
            },
        ),
    )


def good_files() -> Files:
    """Files that are taken, as plain values: sections and settings present or not, written in many ways."""
    identifiers = st.from_regex(r"[A-Z][a-z]{1,8}", fullmatch=True)
    return some_of(
        site=sites(),
        login=_logins(),
        storage=some_of(
            root=st.sampled_from([None, "/srv/labdock", "/srv/a b/"]),
            shared=st.lists(names, max_size=3, unique=True).flatmap(_shared),
        ),
        gpus=_gpus(),
        limits=_limits(),
        images=st.lists(
            st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True),
            min_size=1,
            max_size=3,
            unique=True,
        ).flatmap(_images),
        jupyterhub=st.dictionaries(
            identifiers,
            st.dictionaries(identifiers, plain_values, max_size=2),
            max_size=2,
        ),
    )


def _known_words(record: Record) -> set[str]:
    words: set[str] = set()
    for setting in record.settings:
        inner = getattr(setting.kind, "kind", setting.kind)
        words |= {setting.key} | (_known_words(inner) if isinstance(inner, Record) else set())
    return words


def trees() -> st.SearchStrategy[Node]:
    """Any tree at all, with many words that mean something, repeated keys and keys that are no text."""
    words = st.sampled_from(
        [*sorted(_known_words(DECLARATION)), "none", "8G", "local", "builtin/cpu", "JupyterHub", "/srv"]
    )
    leaves = st.builds(
        Scalar,
        st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(max_size=6),
        st.integers(0, 9),
        st.integers(0, 9),
    )
    return st.recursive(
        leaves,
        lambda inner: (
            st.builds(Items, st.lists(inner, max_size=4).map(tuple))
            | st.builds(Table, st.lists(st.builds(Entry, leaves | inner, inner), max_size=5).map(tuple))
        ),
        max_leaves=25,
    )


def almost_files() -> st.SearchStrategy[Any]:
    """Files made of the right keys with values from a pool of good, bad and odd ones, as plain values."""
    single = [None, True, 0, 1, -3, 64, 0.5, 8.25, 2**27, "", "A b"]
    words = [
        "exclusive",
        "mig",
        "seats",
        "A100",
        "none",
        "local",
        "8G",
        "0G",
        "8g",
        "cpu",
        "root",
        "ada",
        "admins",
        "builtin/cpu",
    ]
    urls = ["http://localhost:8000", "http://x/y", "127.0.0.1:8000", "https://x.example"]
    words += ["auto", "internal", "off", "a@b.example", "10.0.0.0/8", "10.0.0.1/8"]
    paths = ["/", "/srv/x", "/etc/x", "/a/../b", "a/../b", "//a"]
    lists = [[], [1], ["ada"], ["ada", "ada"], [{"id": "a"}], [{"name": "a"}], [{"name": "a", "path": "b"}]]
    lists += [[{"card": "0"}], [{"groups": ["a"], "cards": 1}], [{"people": ["a"], "together": 1}]]
    traits = [{}, {"a": 1}, {"a b": {}}, {"JupyterHub": {"ip": "x"}}, {"JupyterHub": {"db_url": "x"}}]
    odd = st.sampled_from([*single, *words, *urls, *paths, *lists, *traits])

    def record(kind: Record) -> st.SearchStrategy[Any]:
        optional = {
            s.key: odd if not isinstance(s.kind, Record) else odd | record(s.kind) for s in kind.settings
        }
        return st.fixed_dictionaries({}, optional={**optional, "extra": odd})

    return odd | record(DECLARATION)
