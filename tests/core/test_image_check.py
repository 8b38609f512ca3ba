"""An image is fit or not by what was seen in it, and each refusal says what is wrong and the way out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from labdock.core.finding import Finding
from labdock.core.image_check import Clash, Import, Seen, Start, cuda_of, headline, judge

GOOD = Seen(
    python="3.13.5",
    packages={"jupyterhub": "6.1.1", "torch": "2.15.0+cu130", "numpy": "2.5.0"},
    clashes=(),
    imports=(Import("torch", "", 2.5),),
    start=Start(0.6, 0.5, "", (("aiohttp", 40), ("jinja2", 20))),
    broken=(),
    cuda=("12.9", "13.0"),
    installed_bytes=5_000_000_000,
)


def judged(seen: Seen, **more: Any) -> dict[str, Finding]:
    wishes: dict[str, Any] = {
        "size_bytes": 5_200_000_000,
        "hub_version": "6.1.1",
        "labels": {},
        "driver": None,
    }
    wishes |= more
    return {finding.check: finding for finding in judge(seen, **wishes)}


def test_a_good_image_passes_everything() -> None:
    assert all(finding.ok for finding in judged(GOOD, driver="580.65.06").values())


@pytest.mark.parametrize(
    ("version", "ok"), [("6.0.0", True), ("6.9", True), ("5.4.3", False), ("7.0.0", False), (None, False)]
)
def test_the_notebook_server_is_of_the_hubs_major_version(version: str | None, ok: bool) -> None:
    packages = {} if version is None else {"jupyterhub": version}
    finding = judged(replace(GOOD, packages=packages))["jupyterhub"]
    assert finding.ok is ok
    assert "the hub is 6.1.1" in finding.seen


def test_an_image_cannot_pass_for_a_session_or_for_a_lease() -> None:
    finding = judged(GOOD, labels={"org.labdock.gpus": "GPU-1", "maintainer": "ada"})["labels"]
    assert (finding.ok, finding.seen) == (False, "it sets org.labdock.gpus itself")
    assert judged(GOOD, labels={"org.labdock.frameworks": "torch"})["labels"].ok


def test_two_packages_that_own_one_file_are_refused_with_their_names() -> None:
    clash = Clash(("nvidia-cudnn-cu12", "nvidia-cudnn-cu13"), 72, "nvidia/cudnn/lib/libcudnn.so.9")
    finding = judged(replace(GOOD, clashes=(clash,)))["files"]
    assert not finding.ok
    assert finding.seen.startswith("nvidia-cudnn-cu12 and nvidia-cudnn-cu13 both bring 72 files")
    assert "libcudnn.so.9" in finding.seen
    assert "builtin/deeptools" in finding.fix
    other = replace(clash, owners=("opencv-python", "opencv-python-headless"))
    assert "deeptools" not in judged(replace(GOOD, clashes=(other,)))["files"].fix


@pytest.mark.parametrize(
    ("cuda", "driver", "ok"),
    [
        (("13.0",), "580.65.06", True),
        (("13.2",), "581.0", True),
        (("13.0",), "580.65.05", False),
        (("13.0",), "570.86.15", False),
        (("12.8",), "525.60.13", True),
        (("12.8",), "525.60.12", False),
        (("11.8",), "450.80.02", True),
        (("12.8", "13.0"), "570.86.15", False),
        (("13.0",), None, True),
        (("99.0",), "570.86.15", True),
        ((), "570.86.15", True),
    ],
)
def test_the_driver_must_serve_the_newest_cuda_in_the_image(
    cuda: tuple[str, ...], driver: str | None, ok: bool
) -> None:
    finding = judged(replace(GOOD, cuda=cuda), driver=driver)["CUDA"]
    assert finding.ok is ok
    assert ok or (driver is not None and driver in finding.seen and "torch-cu12" in finding.fix)


@pytest.mark.parametrize(("compute", "ok"), [((7, 0), False), ((7, 5), True), ((9, 0), True), (None, True)])
def test_a_card_that_is_too_old_for_the_cuda_in_the_image_is_told(
    compute: tuple[int, int] | None, ok: bool
) -> None:
    assert judged(GOOD, driver="580.65.06", oldest_compute=compute)["CUDA"].ok is ok


def test_a_framework_that_cannot_be_imported_is_refused_in_its_own_words() -> None:
    broken = Import("torch", "ImportError: libcudnn.so.9: cannot open shared object file", 0.1)
    finding = judged(replace(GOOD, imports=(broken,)))["import torch"]
    assert (finding.ok, finding.seen) == (False, broken.error)


def test_a_server_that_does_not_start_is_refused() -> None:
    start = Start(0, 0, "the notebook server ended with exit code 1: No module named 'jupyterlab'")
    finding = judged(replace(GOOD, start=start))["start"]
    assert not finding.ok
    assert "jupyterlab" in finding.seen


def test_what_everybody_would_wait_for_at_each_start_is_refused_by_name() -> None:
    start = Start(1.5, 1.4, "", (("lark", 600), ("rfc3987_syntax", 300), ("aiohttp", 40)))
    finding = judged(replace(GOOD, start=start))["start"]
    assert not finding.ok
    assert "lark and rfc3987-syntax" in finding.fix


def test_a_server_that_takes_many_times_what_it_should_is_refused() -> None:
    finding = judged(replace(GOOD, start=Start(6.0, 5.5, "", (("torch", 4000),))))["start"]
    assert not finding.ok
    assert "torch 4000 ms" in finding.seen


def test_a_driver_that_fails_is_not_taken_for_none() -> None:
    trouble = "the driver's library and its module are of two versions"
    finding = judged(GOOD, trouble=trouble)["CUDA"]
    assert not finding.ok
    assert trouble in finding.seen
    assert judged(replace(GOOD, cuda=()), trouble=trouble)["CUDA"].ok


def test_what_pip_says_of_versions_is_told_and_not_held_against_the_image() -> None:
    finding = judged(replace(GOOD, broken=("a 1 requires b, which is not installed.",)))["requirements"]
    assert finding.ok
    assert "a 1 requires b" in finding.seen


def test_what_is_new_since_the_image_in_use_is_told() -> None:
    before = {"jupyterhub": "6.1.1", "torch": "2.14.0", "six": "1.17"}
    findings = judged(GOOD, before=before, size_before_bytes=5_000_000_000)
    assert findings["new"].seen == "numpy 2.5.0, torch 2.14.0 → 2.15.0+cu130, without six"
    assert findings["size"].seen == "5.2 GB (+200 MB)"
    assert "new" not in judged(GOOD)


def test_an_image_is_told_of_by_what_people_choose_it_for() -> None:
    assert headline(GOOD, ("torch", "keras", "NumPy")) == (
        ("Python", "3.13"),
        ("PyTorch", "2.15.0"),
        ("NumPy", "2.5.0"),
    )
    assert cuda_of(GOOD) == "13.0"


def test_what_was_seen_is_kept_as_it_was() -> None:
    assert Seen.from_json(GOOD.to_json()) == GOOD
    for text in ("", "[]", "{}", '{"python": 1}'):
        with pytest.raises((ValueError, TypeError, KeyError)):
            Seen.from_json(text)
