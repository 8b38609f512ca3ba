"""``labdock up``: facts, plan, apply."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files as package_files
from pathlib import Path

from labdock.adapters import host
from labdock.adapters.agent_api import AgentClient
from labdock.adapters.build_settings import read_pip_settings
from labdock.adapters.engine import ContainerFacts, Engine, EngineFacts
from labdock.cli.certificates import edge_answers, read_site_files
from labdock.cli.console import Console
from labdock.cli.images import Keeper
from labdock.cli.instance import RECORD, Instance, Record, hub_api
from labdock.cli.making import Maker
from labdock.cli.secret_commands import set_since
from labdock.cli.shelves import SHELVES, Line, claim_of, read_lines, read_shelves, shelf_files
from labdock.core.compose import (
    CDI_FOLDER,
    LABEL_PART,
    LABEL_SETTINGS,
    SECRETS,
    Deployment,
    Network,
    bridge_name,
    choose_network,
    compose,
    part_container,
    part_files,
)
from labdock.core.edge import EAB_SECRET
from labdock.core.errors import ConfigError, HostError
from labdock.core.image import DEBIAN_TAG, ROOM_GB, ImageSet, image_set
from labdock.core.lifecycle import Act, Found, Plan, Step, Wanted, plan_engine, plan_images, plan_up
from labdock.core.session import LABEL_INSTANCE, LABEL_ROLE, ROLE_PART
from labdock.core.shelf import Shelves
from labdock.core.site_settings import Listen

READY_TIMEOUT_S = 120.0
DISK_NEEDED_BYTES = 3 * 2**30
ENGINE_START_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything ``up`` has looked at, and what it means to do about it."""

    deployment: Deployment
    wanted: Wanted
    plan: Plan
    """What concerns the parts; *images* is what concerns the notebook images, and comes after."""
    images: Plan
    lines: tuple[Line, ...]
    shelves: Shelves
    held: frozenset[str]
    """The addresses with ports that this instance's own edge has already."""
    unwell: tuple[str, ...]
    """Containers of parts that run and must begin anew: unhealthy, or with secrets that are lost."""


def engine_plan(instance: Instance) -> Plan:
    """What it takes to get an engine that answers; looks at this machine."""
    return plan_engine(
        answers=host.socket_answers(instance.engine_socket),
        installed=shutil.which("dockerd") is not None,
        with_systemd=Path("/run/systemd/system").exists(),
    )


def apply_engine(plan: Plan, instance: Instance, console: Console) -> None:
    """Install and start the engine as *plan* says.

    Raises:
        HostError: It cannot be installed, or does not answer in time.
    """
    for step in plan:
        with console.step(step.text) as show:
            if step.act is Act.INSTALL_ENGINE:
                host.install_packages(("docker.io", "iptables"), on_line=show)
            elif not host.wait_for_socket(instance.engine_socket, timeout_s=2):
                log = Path("/var/log/labdock-dockerd.log")
                host.start_engine(log)
                if not host.wait_for_socket(instance.engine_socket, timeout_s=ENGINE_START_TIMEOUT_S):
                    lines = (host.read_text(log) or "").splitlines()[-host.LAST_LINES :]
                    raise HostError(
                        f"The Docker engine does not answer after {ENGINE_START_TIMEOUT_S:.0f} s.",
                        fix=f"Its log is {log}.",
                        details=tuple(lines),
                    )


async def look(instance: Instance, engine: Engine, simulated_gpus: int | None = None) -> Situation:
    """The facts, and the plan they lead to; changes nothing.

    *simulated_gpus* is how many GPUs to simulate from now on; None leaves it as it is.
    """
    facts = await engine.facts()
    images = read_images()
    shelves = read_shelves(instance)
    lines = read_lines(instance, images, shelves)
    record = instance.record or Record(
        instance.name,
        choose_network(
            instance.name,
            [*(subnet for _, subnet in await engine.network_subnets()), *host.routed_subnets()],
        ).subnet,
        str(instance.config_path or ""),
        instance.places.storage,
    )
    record = Record(
        record.instance,
        record.subnet,
        str(instance.config_path or ""),
        instance.places.storage,
        record.simulated_gpus if simulated_gpus is None else simulated_gpus,
    )
    deployment = _deployment(instance, record, facts, images)
    for_agent, for_hub = shelf_files(instance, shelves)
    document = compose(deployment)
    wanted = Wanted(
        images=images,
        notebooks=tuple(line.making for line in lines),
        files={
            RECORD: record.to_json(),
            "compose.yaml": _compose_text(deployment),
            **part_files(deployment),
            f"parts/agent/{SHELVES}": for_agent,
            f"parts/hub/{SHELVES}": for_hub,
        },
        secrets=SECRETS,
        parts={
            part: (service["image"], service["labels"][LABEL_SETTINGS])
            for part, service in document["services"].items()
        },
        simulation=record.simulated_gpus > 0,
    )
    parts = [part for part in await parts_of(instance, engine) if part.status == "running"]
    found = await _found(instance, engine, wanted, parts, shelves)
    # Also an edge that is unwell holds its port.
    edge_runs = any(part.labels[LABEL_PART] == "edge" for part in parts)
    written = found.files.get("compose.yaml", "") if edge_runs else ""
    held = frozenset(str(place) for place in _places(instance) if f"{place}:" in written)
    lost = found.secrets < set(wanted.secrets)
    unwell = tuple(part.name for part in parts if lost or part.health == "unhealthy")
    plan = plan_up(wanted, found)
    built = {step.subject for step in plan if step.act in {Act.BUILD, Act.GET_DEBIAN}}
    later = replace(found, tags=found.tags | built, shelves=shelves)
    return Situation(deployment, wanted, plan, plan_images(wanted, later), lines, shelves, held, unwell)


def check_first(situation: Situation, instance: Instance, facts: EngineFacts) -> None:
    """Refuse what cannot work, before anything is changed.

    Raises:
        HostError: The port is taken, the disk too full, a shared folder missing.
    """
    starting = {
        part for step in situation.plan if step.act is Act.START_PARTS for part in step.subject.split()
    }
    for place in _places(instance) if "edge" in starting else ():
        if str(place) not in situation.held and not host.port_is_free(place.address, place.port):
            setting = "site.listen" if place == instance.config.site.listen else "site.listen_http"
            raise HostError(
                f"Port {place.port} on {place.address} is taken by another program.",
                fix=f"Choose another with {setting} in labdock.yaml, or end that program.",
            )
    _refuse_lost_homes(instance)
    _refuse_missing_secret(situation)
    root = Path(facts.root_dir)
    free = host.free_bytes(root if root.exists() else instance.state)
    builds = {
        step.subject.removeprefix("labdock/").partition(":")[0]
        for step in (*situation.plan, *situation.images)
        if step.act is Act.BUILD
    }
    needed = DISK_NEEDED_BYTES + sum(ROOM_GB.get(name, 0) for name in builds) * 10**9
    if builds and free < needed:
        raise HostError(
            f"{free / 2**30:.1f} GiB are free where Docker keeps its images ({facts.root_dir}); "
            f"building {', '.join(sorted(builds))} takes {needed / 2**30:.0f} GiB.",
            fix="Make room (`labdock images prune` removes what nobody uses), or offer fewer images; "
            "then run the command again.",
        )
    for folder in instance.config.storage.shared:
        if folder.path is not None and not Path(folder.path).is_dir():
            raise HostError(
                f"The shared folder {folder.name!r} ({folder.path}) is not there.",
                fix="Make it, or leave out its path: then Labdock makes one in its storage.",
            )
        if folder.path is not None:
            _refuse_overlap(folder.name, Path(folder.path), instance)


def _refuse_missing_secret(situation: Situation) -> None:
    """Refuse a way to sign in without the secret that it needs."""
    login = situation.deployment.login
    if login.secret and login.secret not in situation.deployment.secrets:
        raise HostError(
            f"login.method is {login.method}, and the secret {login.secret} is not set.",
            fix=f"`labdock secret set {login.secret}` asks for it.",
        )
    acme = situation.deployment.config.site.acme
    if acme.eab_key_id and EAB_SECRET not in situation.deployment.secrets:
        raise HostError(
            f"site.acme.eab_key_id is {acme.eab_key_id}, and the key that goes with it is not set.",
            fix=f"`labdock secret set {EAB_SECRET}` asks for it.",
        )


def _places(instance: Instance) -> tuple[Listen, ...]:
    """Where the edge is to be published."""
    site = instance.config.site
    return (site.listen, *((site.listen_http,) if site.listen_http else ()))


def _refuse_lost_homes(instance: Instance) -> None:
    """Refuse a new place for the homes while they lie in the old one."""
    if instance.record is None or instance.record.storage == instance.places.storage:
        return
    old, new = Path(instance.record.storage), Path(instance.places.storage)
    if (old / "homes").exists() and not (new / "homes").exists():
        raise HostError(
            f"storage.root is {new} now, and people's homes are still in {old}.",
            fix=f"`labdock down --all`, move them (mv {old}/* {new}/), then `labdock up`.",
        )


def _refuse_overlap(name: str, path: Path, instance: Instance) -> None:
    """Refuse to share what holds secrets or homes."""
    shared = path.resolve()
    for own in (instance.state.resolve(), Path(instance.places.storage).resolve()):
        if shared == own or own in shared.parents or shared in own.parents:
            raise HostError(
                f"The shared folder {name!r} ({path}) and Labdock's own {own} overlap.",
                fix="Share another folder: this one holds secrets or people's homes.",
            )


class Applier:
    """Carries out the steps of a plan; each may be repeated after an interruption."""

    def __init__(self, situation: Situation, instance: Instance, engine: Engine, console: Console) -> None:
        self._situation = situation
        self._instance = instance
        self._engine = engine
        self._console = console
        self._maker = Maker(engine, console, {recipe.tag: recipe for recipe in situation.wanted.recipes()})

    async def apply(self) -> None:
        """Carry out the plan, in order.

        Raises:
            LabdockError: The first step that failed; what was done stays and is not repeated next time.
        """
        place = self._instance.state
        service = self._situation.deployment.service_uid
        for step in self._situation.plan:
            match step.act:
                case Act.GET_DEBIAN:
                    await self._maker.get_debian()
                case Act.BUILD:
                    await self._maker.build(step.subject)
                case Act.MAKE_FOLDER:
                    folders = self._situation.wanted.folders()
                    folder = next(folder for folder in folders if folder.path == step.subject)
                    owner = service if folder.service else None
                    host.make_folder(place / folder.path, mode=folder.mode, uid=owner)
                case Act.MAKE_SECRET:
                    # 32 random bytes in hex, which is also what JupyterHub wants for keys.
                    host.write_file(
                        place / "secrets" / step.subject,
                        secrets.token_hex(32) + "\n",
                        mode=0o600,
                        uid=service,
                    )
                case Act.WRITE:
                    self._write(step.subject, service)
                case Act.START_PARTS:
                    await self._start_parts(step)
                case _:
                    raise AssertionError(f"{step.act} is no act of up")

    def _write(self, path: str, service: int) -> None:
        text = self._situation.wanted.files[path]
        private = path.startswith(("parts/hub/", "certificates/"))
        host.write_file(
            self._instance.state / path,
            text,
            mode=0o600 if private else 0o644,
            uid=service if private else None,
        )

    async def _start_parts(self, step: Step) -> None:
        host.make_folder(Path(self._instance.places.storage), mode=0o755)
        with self._console.step(step.text) as show:
            for container in self._situation.unwell:
                # Compose leaves a running container alone, however unwell it is.
                await self._engine.restart(container, grace_s=10)
            for tag in {image for image, _ in self._situation.wanted.parts.values()}:
                name, _, version = tag.removeprefix("labdock/").partition(":")
                await self._engine.tag(tag, claim_of(self._instance, name, version))
            run_compose(self._instance, ("up", "--detach", "--no-build", "--remove-orphans"), on_line=show)


async def bring_images(situation: Situation, instance: Instance, engine: Engine, console: Console) -> Keeper:
    """Build, check and publish what the plan says; the keeper knows what failed."""
    keeper = keeper_of(instance, engine, console, situation.lines, situation.shelves)
    await keeper.apply(situation.images)
    return keeper


def keeper_of(
    instance: Instance, engine: Engine, console: Console, lines: tuple[Line, ...], shelves: Shelves
) -> Keeper:
    """Who takes *lines* through their life, on this version of Labdock."""
    return Keeper(instance, engine, console, lines, shelves, read_images().hub_version)


def run_compose(instance: Instance, arguments: tuple[str, ...], *, on_line: Callable[[str], None]) -> None:
    """Run Compose on the instance's file.

    Raises:
        HostError: With Compose's last lines.
    """
    host.run(
        (
            str(Path(sys.executable).parent / "docker-compose"),
            "--file",
            str(instance.state / "compose.yaml"),
            "--ansi",
            "never",
            *arguments,
        ),
        on_line=on_line,
        environment={"DOCKER_HOST": f"unix://{instance.engine_socket}"},
        failure="Compose failed.",
    )


async def wait_until_ready(instance: Instance, engine: Engine, console: Console, simulated_gpus: int) -> None:
    """Wait until edge, proxy, hub and agent answer, and cards if *simulated_gpus* are to be.

    Raises:
        HostError: One does not within two minutes; with its last lines.
    """
    api = hub_api(instance)
    agent = AgentClient(instance.agent_socket)
    deadline = time.monotonic() + READY_TIMEOUT_S
    with console.step("Wait until every part answers") as show:
        while True:
            problems: tuple[str, ...] = ()
            if not instance.agent_socket.exists() or not host.socket_answers(instance.agent_socket):
                problems = ("the agent does not answer yet",)
            elif not edge_answers(instance):
                problems = ("the edge does not answer yet",)
            elif not api.healthy():
                problems = ("the hub does not answer yet",)
            else:
                problems = await agent.health()
            if not problems and simulated_gpus and not await _has_gpus(agent):
                problems = ("the simulated GPUs are not there yet",)
            if not problems:
                return
            show("; ".join(problems))
            stopped = [part for part in await parts_of(instance, engine) if part.status in {"exited", "dead"}]
            if time.monotonic() > deadline or stopped:
                part = stopped[0].name if stopped else part_container(instance.name, "hub")
                raise HostError(
                    f"Not every part became ready: {'; '.join(problems)}.",
                    fix="The lines below are the last ones of "
                    f"{part}; `labdock logs` shows more. Mend the cause and run `labdock up` again.",
                    details=await engine.last_lines(part),
                )
            time.sleep(0.2)  # noqa: ASYNC251  nothing else runs here


async def _has_gpus(agent: AgentClient) -> bool:
    """Whether the agent sees cards, or knows why it sees none."""
    report = await agent.gpus()
    return bool(report.inventory.cards or report.trouble)


async def parts_of(instance: Instance, engine: Engine) -> tuple[ContainerFacts, ...]:
    """The containers of the instance's parts."""
    return await engine.containers({LABEL_INSTANCE: instance.name, LABEL_ROLE: ROLE_PART})


def read_images() -> ImageSet:
    """The images this version of Labdock needs, from the files it carries."""
    package = Path(str(package_files("labdock")))
    folders = {
        folder.name: {str(path.relative_to(folder)): path.read_bytes() for path in _files(folder)}
        for folder in sorted((package / "images").iterdir())
        if folder.is_dir()
    }
    source = {
        str(path.relative_to(package)): path.read_bytes()
        for path in _files(package)
        if "images" not in path.relative_to(package).parts and "cli" not in path.relative_to(package).parts
    }
    return image_set(folders, source)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def _deployment(instance: Instance, record: Record, facts: EngineFacts, images: ImageSet) -> Deployment:
    network = Network(f"{instance.name}-sessions", bridge_name(instance.name), record.subnet)
    files = read_site_files(instance.config.site)
    return Deployment(
        instance=instance.name,
        config=instance.config,
        places=instance.places,
        network=network,
        server_image=images.server.tag,
        engine_api=facts.api,
        engine_cpus=facts.cpus,
        owner_uid=os.geteuid(),
        driver_folders=host.nvidia_folders(),
        simulated_gpus=record.simulated_gpus,
        simulation_image=images.simulation.tag,
        cdi=CDI_FOLDER in facts.cdi_folders,
        pip=read_pip_settings(),
        login_authority=read_login_authority(instance),
        secrets=set_since(instance),
        acme_authority=files.acme_authority,
        own_pair=files.own_pair,
        pair_folders=files.pair_folders,
    )


def read_login_authority(instance: Instance) -> str:
    """The text of the file that ``login.authority`` names, "" without one.

    Raises:
        ConfigError: It is not there, or holds no certificate.
    """
    named = instance.config.login.authority
    if named is None:
        return ""
    path = (instance.config_path or Path()).parent / named
    text = host.read_text(path)
    if text is None or "-----BEGIN CERTIFICATE-----" not in text:
        raise ConfigError(
            f"login.authority: {path} {'is not there' if text is None else 'holds no certificate'}.",
            fix="Name the PEM file of the authority that signed the provider's certificate.",
        )
    return text


def _compose_text(deployment: Deployment) -> str:
    from labdock.adapters.yaml_text import to_yaml  # noqa: PLC0415  only here

    head = (
        "# Written by `labdock up`. `docker compose -f` this file works; changes by hand are overwritten.\n"
    )
    return head + to_yaml(compose(deployment))


async def _found(
    instance: Instance, engine: Engine, wanted: Wanted, running: list[ContainerFacts], shelves: Shelves
) -> Found:
    references = {recipe.tag for recipe in wanted.recipes()} | {DEBIAN_TAG}
    for making in wanted.notebooks:
        references |= {recipe.tag for recipe in making.recipes} | ({making.fetched} - {""})
        release = shelves.of(making.image).release
        references |= {release.reference} if release else set()
    present = [reference for reference in sorted(references) if await engine.has_image(reference)]
    place = instance.state
    try:
        files = {path: text for path in wanted.files if (text := host.read_text(place / path)) is not None}
    except PermissionError as error:
        raise HostError(
            f"{place} may not be read.", fix="Run as the user who ran `labdock up` first."
        ) from error
    parts = {
        part.labels[LABEL_PART]: (part.image, part.labels[LABEL_SETTINGS])
        for part in running
        if part.health != "unhealthy"
    }
    return Found(
        tags=frozenset(present),
        files=files,
        folders=frozenset(folder.path for folder in wanted.folders() if (place / folder.path).is_dir()),
        secrets=frozenset(name for name in wanted.secrets if (place / "secrets" / name).is_file()),
        parts=parts,
    )
