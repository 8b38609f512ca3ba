"""Containers that stopped: last words kept, then gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labdock.adapters.agent_api import Ended
from labdock.agent.ends import Ends
from labdock.agent.engine import Engine, plain_lines
from labdock.agent.last_words import KEPT, LastWords
from labdock.agent.watch import STALE_AFTER_S, Watch
from labdock.core.session import LABEL_INSTANCE, LABEL_ROLE
from tests.agent.engines import FakeContainer, FakeEngine
from tests.agent.harness import until

NOW = datetime.now(UTC)


@pytest.fixture
def last_words(tmp_path: Path) -> LastWords:
    return LastWords(tmp_path / "ended")


@pytest.fixture
async def watch(fake_engine: FakeEngine, last_words: LastWords) -> AsyncIterator[Watch]:
    async with Engine(fake_engine.socket) as engine:
        yield Watch(engine, "labdock", last_words, Ends(0), clock=NOW.timestamp)


@pytest.fixture
async def watching(watch: Watch) -> AsyncIterator[Watch]:
    task = asyncio.create_task(watch.run())
    await until(lambda: watch.problem is None)
    yield watch
    task.cancel()
    await asyncio.wait([task])


def session(
    engine: FakeEngine,
    name: str = "labdock-session-ada",
    *,
    instance: str = "labdock",
    state: str = "running",
) -> FakeContainer:
    made = engine.add(name, {"Labels": {LABEL_INSTANCE: instance, LABEL_ROLE: "session"}})
    made.state = state
    made.output.append(b"ready\n")
    return made


async def test_an_end_by_the_memory_limit_is_told_as_such(
    fake_engine: FakeEngine, watching: Watch, last_words: LastWords
) -> None:
    one = session(fake_engine)
    one.out_of_memory = True
    fake_engine.end(one, 137)
    ended = await until(lambda: last_words.read(one.name))
    assert (ended.exit_code, ended.out_of_memory, ended.last_lines) == (137, True, ("ready",))
    await until(lambda: not fake_engine.by_id)


async def test_what_stopped_while_nobody_looked_is_settled_at_the_next_sweep(
    fake_engine: FakeEngine, watch: Watch, last_words: LastWords
) -> None:
    one = session(fake_engine)
    fake_engine.end(one, 1, quietly=True)
    await watch.sweep()
    assert fake_engine.by_id == {}
    assert last_words.read(one.name) is not None


async def test_the_engines_restart_is_survived(
    fake_engine: FakeEngine, watching: Watch, last_words: LastWords
) -> None:
    missed = session(fake_engine, "labdock-session-ada")
    fake_engine.hang_up()
    fake_engine.end(missed, 1, quietly=True)
    await until(lambda: last_words.read(missed.name))
    later = session(fake_engine, "labdock-session-bob")
    await until(lambda: fake_engine.listeners)
    fake_engine.end(later, 2)
    await until(lambda: last_words.read(later.name))


async def test_an_engine_that_is_away_is_a_problem_until_it_is_back(
    tmp_path: Path, last_words: LastWords
) -> None:
    path = str(tmp_path / "late.sock")
    async with Engine(path) as engine:
        watch = Watch(engine, "labdock", last_words, Ends(0))
        task = asyncio.create_task(watch.run())
        await until(lambda: "does not answer" in (watch.problem or ""))
        async with FakeEngine(path).running():
            await until(lambda: watch.problem is None)
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize(
    ("age_s", "stays"), [(0.0, True), (STALE_AFTER_S - 5, True), (STALE_AFTER_S + 5, False)]
)
async def test_a_start_in_progress_is_left_alone_for_two_minutes(
    fake_engine: FakeEngine, watch: Watch, last_words: LastWords, age_s: float, stays: bool
) -> None:
    one = session(fake_engine, state="created")
    one.created = (NOW - timedelta(seconds=age_s)).isoformat()
    await watch.sweep()
    assert (one.id in fake_engine.by_id) == stays
    assert last_words.read(one.name) is None


@pytest.mark.parametrize("state", ["running", "paused", "restarting", "removing"])
async def test_a_session_that_has_not_stopped_is_never_removed(
    fake_engine: FakeEngine, watch: Watch, state: str
) -> None:
    one = session(fake_engine, state=state)
    await watch.sweep()
    assert one.id in fake_engine.by_id


async def test_other_containers_are_not_ours_to_remove(fake_engine: FakeEngine, watching: Watch) -> None:
    others = session(fake_engine, instance="other")
    plain = fake_engine.by_id[fake_engine.add_stranger()]
    # The events of a real engine are filtered; the agent does not rely on that alone.
    fake_engine.end(others, 0)
    fake_engine.end(plain, 0)
    ours = session(fake_engine)
    fake_engine.end(ours, 0)
    await until(lambda: ours.id not in fake_engine.by_id)
    assert set(fake_engine.by_id) == {others.id, plain.id}


async def test_a_container_the_hub_removes_meanwhile_is_no_trouble(
    fake_engine: FakeEngine, watching: Watch, last_words: LastWords
) -> None:
    gone = session(fake_engine)
    fake_engine.end(gone, 0)
    del fake_engine.by_id[gone.id]
    later = session(fake_engine, "labdock-session-bob")
    fake_engine.end(later, 0)
    await until(lambda: last_words.read(later.name))
    assert last_words.read(gone.name) is None


async def test_a_container_keeps_its_last_words_while_the_disk_takes_none(
    fake_engine: FakeEngine, watch: Watch, last_words: LastWords, tmp_path: Path
) -> None:
    (tmp_path / "ended").write_text("in the way")
    one = session(fake_engine)
    fake_engine.end(one, 1)
    await watch.sweep()
    assert one.id in fake_engine.by_id
    (tmp_path / "ended").unlink()
    await watch.sweep()
    assert last_words.read(one.name) is not None
    assert one.id not in fake_engine.by_id


def test_the_newest_200_last_words_are_kept(last_words: LastWords) -> None:
    for number in range(KEPT + 3):
        last_words.save(Ended(f"s{number}", 0, False, (), NOW))
    assert last_words.read("s2") is None
    assert last_words.read("s3") is not None
    assert last_words.read(f"s{KEPT + 2}") is not None


@given(
    st.builds(
        Ended,
        st.text(),
        st.integers(),
        st.booleans(),
        st.lists(st.text()).map(tuple),
        st.datetimes(timezones=st.just(UTC)),
    )
)
def test_last_words_survive_being_written_down(ended: Ended) -> None:
    assert Ended.from_json(ended.to_json()) == ended


@given(st.binary(max_size=3000))
def test_whatever_a_session_prints_can_be_shown(output: bytes) -> None:
    lines = plain_lines(output)
    assert len(lines) <= 20
    assert all(len(line) <= 1000 and (line == "" or line.isprintable()) for line in lines)


def test_the_last_lines_are_the_last() -> None:
    assert plain_lines(b"".join(b"%d\r\n" % n for n in range(50)) + b"\n\n") == tuple(
        str(n) for n in range(30, 50)
    )
