"""The three ways of injection give a session the same: exactly its cards, on real engines."""

from __future__ import annotations

import os
import re
import stat

import aiodocker
import pytest

from labdock.core.gpus import Way
from tests.adapters.drivers import GPU_MAJOR, multiarch, uuid
from tests.ways.conftest import VERSION, Bed, session
from tests.ways.inside import NOTHING, Found, cards, look_inside

pytestmark = pytest.mark.engine

NEXT_VERSION = "575.51.03"


def leased(bed: Bed, *minors: int, version: str = VERSION) -> Found:
    """What is to be found in a session with the cards of *minors*."""
    asked_for = ",".join(map(uuid, minors)) if bed.case.way is Way.NVIDIA else "void"
    return cards(*minors, version=version, asked_for=asked_for)


def mounted_versions(bed: Bed, container: str) -> set[str]:
    """Of which drivers *container* has libraries."""
    mounts = (bed.root_of(container) / "proc/1/mountinfo").read_text()
    return set(re.findall(r"/libcuda\.so\.([0-9]+\.[0-9.]+)", mounts))


async def test_a_session_has_exactly_the_cards_of_its_lease_and_the_driver_read_only(bed: Bed) -> None:
    assert (await bed.agent.client.gpus()).way is bed.case.way
    for name, minors in (("ada", (1,)), ("bob", (0, 3))):
        assert look_inside(bed.engine, await session(bed, name, *minors)) == leased(bed, *minors)


async def test_a_node_of_another_card_refuses_even_if_root_made_it_in_the_session(bed: Bed) -> None:
    container = await session(bed, "ada", 1)
    for minor, said in ((1, "No such device or address"), (0, "Operation not permitted")):
        node = bed.root_of(container) / f"var/made{minor}"
        os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(GPU_MAJOR, minor))
        node.chmod(0o666)
        opened = f"open('/var/{node.name}')"
        for user in ("", "0"):
            assert said in bed.engine.run(container, "python3", "-c", opened, user=user)


async def test_a_session_without_a_lease_sees_no_card_though_its_image_asks_for_all(bed: Bed) -> None:
    assert look_inside(bed.engine, await session(bed, "ada")) == NOTHING


async def test_a_card_is_free_when_its_container_is_gone(bed: Bed) -> None:
    first = await session(bed, "ada", 1)
    bob = await bed.agent.client.person("local:bob", "bob")
    with pytest.raises(aiodocker.DockerError, match="is taken"):
        await bed.agent.create(bob, cards=(uuid(1),))
    await bed.agent.docker.containers.container(first).delete(force=True)
    assert (await bed.agent.client.gpus()).leases == ()
    assert look_inside(bed.engine, await session(bed, "bob", 1)) == leased(bed, 1)


async def test_after_an_upgrade_of_the_driver_new_sessions_get_its_files_and_old_ones_are_marked(
    bed: Bed,
) -> None:
    old = await session(bed, "ada", 0)
    for file in bed.machine.root.glob(f"usr/lib/*/*.so.{VERSION}"):
        file.unlink()
    multiarch(bed.machine, NEXT_VERSION)
    bed.machine.load(NEXT_VERSION)
    bed.clock.now += 2
    new = await session(bed, "bob", 1)
    assert look_inside(bed.engine, new) == leased(bed, 1, version=NEXT_VERSION)
    report = await bed.agent.client.gpus()
    assert {lease.person: report.outdated(lease) for lease in report.leases} == {"ada": True, "bob": False}
    assert (mounted_versions(bed, old), mounted_versions(bed, new)) == ({VERSION}, {NEXT_VERSION})


async def test_a_card_that_was_put_in_is_given_without_a_restart_of_the_engine(bed: Bed) -> None:
    await session(bed, "ada", 0)
    bed.machine.plug(4)
    os.mknod(bed.machine.root / "dev/nvidia4", stat.S_IFCHR | 0o666, os.makedev(GPU_MAJOR, 4))
    (bed.machine.root / "dev/nvidia4").chmod(0o666)
    bed.clock.now += 2
    assert look_inside(bed.engine, await session(bed, "bob", 4)) == leased(bed, 4)
