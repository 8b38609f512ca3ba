"""What the parts are told survives its way through a file."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from labdock.core.login import LoginSettings
from labdock.core.session import Limits, SharedFolder
from labdock.core.site import AgentRules, HubSettings

texts = st.text(max_size=12)
several_texts = st.lists(texts, max_size=3).map(tuple)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
limits = st.builds(
    Limits,
    st.none() | st.floats(0.1, 512),
    st.none() | st.integers(2**27, 2**50),
    st.integers(2**20, 2**40),
    st.integers(64, 100_000),
)
shared = st.lists(st.builds(SharedFolder, texts, texts, texts), max_size=3).map(tuple)
hub_settings = st.builds(
    HubSettings,
    login=st.builds(LoginSettings, method=texts, scopes=several_texts),
    limits=limits,
    shared=shared,
    jupyterhub=st.dictionaries(texts, st.dictionaries(texts, plain, max_size=2), max_size=2),
)
agent_rules = st.builds(AgentRules, limits=limits, shared=shared, managed_shared=several_texts)


@given(hub_settings)
def test_the_hub_reads_what_was_written_for_it(settings: HubSettings) -> None:
    assert HubSettings.from_json(settings.to_json()) == settings


@given(agent_rules)
def test_the_agent_reads_what_was_written_for_it(rules: AgentRules) -> None:
    assert AgentRules.from_json(rules.to_json()) == rules


@given(hub_settings)
def test_the_same_settings_make_the_same_file(settings: HubSettings) -> None:
    copy = HubSettings.from_json(settings.to_json())
    assert copy.to_json() == settings.to_json()
    assert settings.to_json().endswith("}\n")
