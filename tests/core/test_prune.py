"""Nothing is removed that a container uses, that another instance claims, or that is needed here."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from labdock.core.prune import Images, plan_prune

HASHES = ("0" * 12, "1" * 12, "2" * 12)
REFERENCES = (
    *(f"labdock/{name}:{digest}" for name in ("cpu", "own-vision") for digest in HASHES),
    *(f"labdock-{lab}/cpu:{digest}" for lab in ("lab", "other") for digest in HASHES),
    "labdock/debian:trixie",
    "debian:trixie-slim",
    "somebody/labdock:1",
)
references = st.dictionaries(st.sampled_from(REFERENCES), st.sampled_from(["a", "b", "c"]))
some = st.frozensets(st.sampled_from([*REFERENCES, "a", "b", "c"]))


@given(references, some, some, some)
def test_what_somebody_needs_stays(
    there: dict[str, str], in_use: frozenset[str], kept: frozenset[str], wanted: frozenset[str]
) -> None:
    removed = plan_prune(Images(there, in_use), instance="lab", kept=kept, wanted=wanted)
    assert len(removed) == len(set(removed))
    for reference in removed:
        assert reference in there
        assert not in_use & {reference, there[reference]}
        assert reference not in kept or reference.startswith("labdock/")
        assert reference not in wanted or reference.startswith("labdock-")
        assert reference.startswith(("labdock/cpu:", "labdock/own-", "labdock-lab/"))
    left = {reference: image for reference, image in there.items() if reference not in removed}
    claims = {image for reference, image in left.items() if reference.startswith("labdock-")}
    # Whatever is still claimed keeps the tags that it is built under: nobody builds it anew.
    assert not {there[reference] for reference in removed if reference.startswith("labdock/")} & claims


@given(references, some, some, some)
def test_once_is_enough(
    there: dict[str, str], in_use: frozenset[str], kept: frozenset[str], wanted: frozenset[str]
) -> None:
    removed = plan_prune(Images(there, in_use), instance="lab", kept=kept, wanted=wanted)
    left = {reference: image for reference, image in there.items() if reference not in removed}
    assert plan_prune(Images(left, in_use), instance="lab", kept=kept, wanted=wanted) == ()


def test_an_old_release_goes_with_the_tag_it_was_built_under() -> None:
    there = {
        f"labdock-lab/cpu:{HASHES[0]}": "old",
        f"labdock/cpu:{HASHES[0]}": "old",
        f"labdock-lab/cpu:{HASHES[1]}": "new",
        f"labdock/cpu:{HASHES[1]}": "new",
    }
    removed = plan_prune(
        Images(there, frozenset()),
        instance="lab",
        kept=frozenset({f"labdock-lab/cpu:{HASHES[1]}"}),
        wanted=frozenset({f"labdock/cpu:{HASHES[1]}"}),
    )
    assert removed == (f"labdock-lab/cpu:{HASHES[0]}", f"labdock/cpu:{HASHES[0]}")
