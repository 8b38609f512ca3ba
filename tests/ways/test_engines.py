"""What is particular to one engine: the way that is chosen on it, and that its own means are at work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import aiodocker
import pytest

from labdock.core.gpus import GpuRules, Way
from tests.adapters.drivers import uuid
from tests.agent.engines import RealEngine
from tests.agent.harness import running_agent
from tests.ways.conftest import VERSION, Bed, Case, session
from tests.ways.inside import cards, look_inside

pytestmark = pytest.mark.engine

AUTO = {"machines": Way.DEVICES, "second": Way.DEVICES, "nested": Way.CDI}


def on(engine: str, inject: str, way: Way) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [Case(engine, inject, way)], ids=[engine])


@pytest.mark.parametrize("case", [Case(engine, "auto", way) for engine, way in AUTO.items()], ids=AUTO)
async def test_auto_takes_cdi_where_the_engine_has_it_and_never_nvidias_runtime(bed: Bed) -> None:
    assert (await bed.agent.client.gpus()).way is bed.case.way


@on("nested", "cdi", Way.CDI)
async def test_cdi_works_on_docker_26_when_asked_for(bed: Bed) -> None:
    assert bed.engine.ask("GET", "/version")["Version"].startswith("26.")
    assert look_inside(bed.engine, await session(bed, "ada", 1)) == cards(1, version=VERSION)


@on("nested", "auto", Way.CDI)
async def test_a_cdi_spec_that_somebody_removed_is_written_again(bed: Bed) -> None:
    await session(bed, "ada", 0)
    bed.spec.unlink()
    assert look_inside(bed.engine, await session(bed, "bob", 1)) == cards(1, version=VERSION)


@on("nested", "auto", Way.CDI)
async def test_two_labdocks_on_one_engine_name_the_same_cards_and_give_each_once(
    bed: Bed, tmp_path: Path
) -> None:
    same = RealEngine(bed.engine.image, socket_path=bed.engine.socket, network=bed.engine.network)
    with same.running() as other_engine:
        (tmp_path / "other").mkdir()
        async with running_agent(
            other_engine,
            tmp_path / "other",
            machine=bed.machine,
            gpus=GpuRules(inject="auto"),
            cdi_dir=bed.own.cdi_dir,
        ) as agent:
            other = replace(bed, agent=agent, engine=other_engine)
            first = await session(bed, "ada", 0)
            second = await session(other, "bob", 1)
            assert look_inside(bed.engine, first) == cards(0, version=VERSION)
            assert look_inside(other.engine, second) == cards(1, version=VERSION)
            with pytest.raises(aiodocker.DockerError, match="is taken"):
                await session(other, "eve", 0)


@on("second", "devices", Way.DEVICES)
async def test_without_labdock_the_default_runtime_gives_what_an_image_asks_for(bed: Bed) -> None:
    """So it is Labdock's doing when a session on this engine finds nothing."""
    asked = {"all": (0, 1, 2, 3), f"{uuid(2)},0": (2, 0), "none": ()}
    for variable, minors in asked.items():
        by_hand = bed.engine.add({"Cmd": ["sleep", "1000"], "Env": [f"NVIDIA_VISIBLE_DEVICES={variable}"]})
        bed.engine.ask("POST", f"/containers/{by_hand}/start")
        wanted = cards(*minors, version=VERSION, asked_for=variable)
        assert look_inside(bed.engine, by_hand) == replace(wanted, made="done")
