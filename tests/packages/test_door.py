"""The part in front of the index: what it answers and keeps, and that nobody can put anything into it."""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import requests

from tests.packages.conftest import FakeIndex, Front, Fronts

WHEEL = "einops-1.0-py3-none-any.whl"
CONTENT = random.Random(1).randbytes(300_000)  # noqa: S311  the same in each run, and not to be packed
DIGEST = hashlib.sha256(CONTENT).hexdigest()
FILE = f"/index/einops/{WHEEL}"


@pytest.fixture(autouse=True)
def einops(index: FakeIndex) -> None:
    index.files[WHEEL] = CONTENT


def raw(front: Front, request: str) -> bytes:
    """What the part answers to *request*, sent as it stands."""
    place = urlsplit(front.url)
    with socket.create_connection((str(place.hostname), int(place.port or 0)), 5) as connection:
        connection.sendall(request.encode("latin-1"))
        answer = b""
        while more := connection.recv(65536):
            answer += more
        return answer


@pytest.mark.parametrize("kind", ["json", "html"])
def test_a_page_names_the_files_and_their_digests_and_leads_to_this_part(front: Front, kind: str) -> None:
    front.index.kind = kind
    json_type = "application/vnd.pypi.simple.v1+json"
    answer = front.get("/index/einops/", headers={"Accept": json_type})
    assert answer.headers["Content-Type"] == json_type
    (listed,) = answer.json()["files"]
    assert (listed["url"], listed["hashes"]) == (WHEEL, {"sha256": DIGEST})
    page = front.get("/index/einops/", headers={"Accept": "text/html"}).text
    assert f"{WHEEL}#sha256={DIGEST}" in page
    assert front.index.url not in page


def test_a_file_is_fetched_once_for_everybody(front: Front) -> None:
    assert [front.get(FILE).content for _ in range(3)] == [CONTENT] * 3
    assert front.index.asked[f"/files/{WHEEL}"] == 1
    assert front.kept() == {DIGEST}


def test_many_who_ask_at_the_same_time_share_one_fetch(front: Front) -> None:
    front.index.gate.clear()
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(front.get, FILE) for _ in range(6)]
        time.sleep(0.3)
        front.index.gate.set()
        assert {answer.result().content for answer in answers} == {CONTENT}
    assert front.index.asked[f"/files/{WHEEL}"] == 1


def test_a_file_is_passed_on_while_it_still_arrives(front: Front) -> None:
    """Or a client that waits for 15 seconds, as pip does, would give a large file up."""
    front.index.gate.clear()
    with front.get(FILE, stream=True) as answer:
        assert answer.headers["Content-Length"] == str(len(CONTENT))
        chunks = answer.iter_content(10_000)
        begun = next(chunks)
        assert begun == CONTENT[:10_000]
        front.index.gate.set()
        assert begun + b"".join(chunks) == CONTENT


def test_what_is_kept_is_served_while_the_index_is_away(front: Front) -> None:
    front.get(FILE)
    front.index.status = 503
    assert front.get(FILE).content == CONTENT
    assert front.get("/index/einops/").status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("path", ["/cache/list", "/cache/einops", FILE, "/index/einops/", "/", "/health"])
def test_nobody_can_put_anything_in_or_take_it_out(front: Front, method: str, path: str) -> None:
    front.get(FILE)
    answer = requests.request(method, f"{front.url}{path}", data=b"evil", timeout=5)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert front.get(FILE).content == CONTENT
    assert front.kept() == {DIGEST}


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/index/",
        "/cache/list",
        "/static/x",
        "/index/einops",
        "/index/Einops/",
        "/index/../einops/",
        "/index/%2e%2e/",
        "/index/..%2f..%2fetc/",
        "/index/ein%3Fops/",
        "/index/http:%2F%2Fevil.example/",
        "/index/http:evil.example/",
        "/index//evil.example/",
        "/index/%5C%5Cevil.example/",
        "/index/einops/..%2f..%2f..%2fetc%2fpasswd",
        "/index/einops/%2e%2e",
        "/index/einops/.part",
        "/index/einops/a%0d%0ab",
        "/index/einops/a%00b",
        "/index/einops\n/",
        f"/index/einops/{DIGEST}",
        f"/index/{'a' * 600}/",
        f"{FILE}/",
    ],
)
def test_nothing_is_asked_of_the_index_but_pages_and_what_they_list(front: Front, path: str) -> None:
    answer = raw(front, f"GET {path.replace(chr(10), '%0A')} HTTP/1.0\r\n\r\n")
    assert b" 404 " in answer.splitlines()[0]
    assert set(front.index.asked) <= {"/simple/einops/"}
    assert not front.kept()


def test_the_query_and_the_host_of_a_request_change_nothing(front: Front) -> None:
    answer = front.get(
        "/index/einops/?format=application/vnd.pypi.simple.v1%2Bjson&x=http://evil.example",
        headers={"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Accept": "text/html"},
    )
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "evil" not in answer.text


def test_a_misspelt_project_is_no_project_and_asks_for_no_list_of_all(front: Front) -> None:
    answer = front.get("/index/einopps/")
    assert (answer.status_code, answer.text) == (404, "There is no such package or file here.\n")
    assert set(front.index.asked) == {"/simple/einopps/"}
    assert front.get("/index/einopps/einopps-1.0.tar.gz").status_code == 404


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_an_index_that_refuses_is_not_taken_for_one_that_has_no_such_project(
    front: Front, status: int
) -> None:
    front.index.status = status
    for path in ("/index/einops/", FILE):
        answer = front.get(path)
        assert answer.status_code == 502
        assert answer.text.startswith("The package index of this machine does not answer")


def test_a_file_that_the_index_says_another_digest_of_is_neither_served_whole_nor_kept(front: Front) -> None:
    front.index.digests[WHEEL] = "0" * 64
    with pytest.raises(requests.RequestException), front.get(FILE) as answer:
        assert answer.content != CONTENT
    assert not front.kept()


def test_a_file_that_is_cut_off_is_not_kept_and_the_next_one_is_whole(front: Front) -> None:
    front.index.cut_after = 1
    with pytest.raises(requests.RequestException):
        front.get(FILE)
    assert not front.kept()
    front.index.cut_after = None
    assert front.get(FILE).content == CONTENT


def test_a_kept_file_that_was_changed_on_the_disk_is_thrown_away(front: Front) -> None:
    front.get(FILE)
    (front.folder / DIGEST).write_bytes(b"evil" * 1000)
    assert front.get(FILE).content == CONTENT
    assert front.index.asked[f"/files/{WHEEL}"] == 2


def test_after_a_restart_what_is_kept_serves_and_what_broke_meanwhile_does_not(
    front: Front, fronts: Fronts
) -> None:
    front.get(FILE)
    again = fronts.start()
    assert again.get(FILE).content == CONTENT
    assert again.index.asked[f"/files/{WHEEL}"] == 1
    path = front.folder / DIGEST
    facts = path.stat()
    path.write_bytes(CONTENT[:-5] + b"\0" * 5)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    (front.folder / f"{DIGEST}.part").write_bytes(b"half")
    last = fronts.start()
    assert last.get(FILE).content == CONTENT
    assert last.index.asked[f"/files/{WHEEL}"] == 2
    assert last.kept() == {DIGEST}


def test_a_file_of_another_project_with_the_same_name_does_not_take_its_place(front: Front) -> None:
    """Files are kept by what is in them."""
    front.get(FILE)
    front.index.files[WHEEL] = b"another release under the same name"
    front.index.digests[WHEEL] = hashlib.sha256(front.index.files[WHEEL]).hexdigest()
    assert front.get(FILE).content == CONTENT  # by the page that is remembered
    assert front.kept() == {DIGEST}


def test_a_file_without_a_digest_is_passed_on_and_not_kept(front: Front) -> None:
    front.index.digests[WHEEL] = ""
    assert [front.get(FILE).content for _ in range(2)] == [CONTENT] * 2
    assert front.index.asked[f"/files/{WHEEL}"] == 2
    assert not front.kept()


def test_the_kept_files_stay_below_the_limit_and_those_in_use_stay(fronts: Fronts) -> None:
    for number in range(5):
        fronts.index.files[f"einops-{number}.whl"] = bytes([number]) * 1000
    front = fronts.start(most_bytes=2500)
    for number in (0, 1, 0, 2):
        front.get(f"/index/einops/einops-{number}.whl")
        time.sleep(0.01)
    wanted = {hashlib.sha256(bytes([number]) * 1000).hexdigest() for number in (0, 2)}
    assert front.kept() == wanted


def test_a_file_above_the_limit_is_passed_on(fronts: Fronts) -> None:
    front = fronts.start(most_bytes=100_000)
    assert front.get(FILE).content == CONTENT
    assert not front.kept()


def test_the_kept_files_take_a_tenth_of_the_free_disk_at_most(fronts: Fronts) -> None:
    assert fronts.start(free_bytes=2_999_990).get(FILE).content == CONTENT
    assert not list(fronts.folder.iterdir())
    assert fronts.start(free_bytes=3_000_000).get(FILE).content == CONTENT
    assert {path.name for path in fronts.folder.iterdir()} == {DIGEST}


def test_head_tells_the_size_and_fetches_nothing(front: Front) -> None:
    answer = requests.head(f"{front.url}{FILE}", timeout=5)
    assert (answer.status_code, answer.headers["Content-Length"]) == (200, str(len(CONTENT)))
    assert not front.kept()


def test_credentials_go_to_the_index_alone(fronts: Fronts) -> None:
    front = fronts.start(user="lab", password="s3cret")
    page = front.get("/index/einops/")
    assert "s3cret" not in page.text
    assert "Authorization" in front.index.headers["/simple/einops/"]
    front.get(FILE)
    assert "Authorization" in front.index.headers[f"/files/{WHEEL}"]
    # The same machine by another name is another place.
    front.index.url = front.index.url.replace("127.0.0.1", "localhost")
    front.index.files["other-1.0.whl"] = b"other"
    assert front.get("/index/other/other-1.0.whl").content == b"other"
    assert "Authorization" not in front.index.headers["/files/other-1.0.whl"]


def test_remembered_pages_are_let_go_of(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labdock.packages.index.MOST_FILES", 2)
    for name in ("a", "b", "c"):
        front.index.files[f"{name}-1.0.whl"] = name.encode()
        front.get(f"/index/{name}/")
    front.get("/index/c/")
    front.get("/index/a/")
    assert front.index.asked["/simple/c/"] == 1
    assert front.index.asked["/simple/a/"] == 2


def test_a_slow_reader_holds_up_nobody(front: Front) -> None:
    front.get(FILE)
    place = urlsplit(front.url)
    slow = [http.client.HTTPConnection(str(place.hostname), int(place.port or 0)) for _ in range(20)]
    for connection in slow:
        connection.request("GET", FILE)
    began = time.monotonic()
    assert front.get(FILE).content == CONTENT
    assert time.monotonic() - began < 2
    for connection in slow:
        connection.close()


def test_health_asks_nobody(front: Front) -> None:
    front.index.status = 500
    assert front.get("/health").text == "ok\n"
    assert not front.index.asked


def test_many_who_ask_for_different_files_get_each_their_own(front: Front) -> None:
    for number in range(20):
        front.index.files[f"einops-{number}.whl"] = os.urandom(200_000)
    front.index.asked.clear()
    found: dict[int, bytes] = {}

    def take(number: int) -> None:
        found[number] = front.get(f"/index/einops/einops-{number}.whl").content

    threads = [threading.Thread(target=take, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[number] == front.index.files[f"einops-{number}.whl"] for number in range(20))
