"""The Docker engine: facts, builds, containers; every foreign error becomes ours."""

from __future__ import annotations

import asyncio
import io
import re
import tarfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiodocker
import aiohttp
from aiodocker.exceptions import DockerError

from labdock.core.errors import BuildError, EngineError, HostError, RefusedError

OLDEST_API = (1, 41)
"""Docker 20.10."""

LAST_LINES = 20

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""The engine paints what a build writes to standard error."""

_NO_CONNECTION = 900
"""The status that aiodocker makes up when nobody listens."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the engine says of itself; memory in bytes.

    *cdi_folders* is where it looks for CDI specs, *runtimes* what it can run containers with; *runc* is the
    version or commit of runc as the engine tells it.
    """

    version: str
    api: tuple[int, int]
    cpus: int
    memory_bytes: int
    root_dir: str
    rootless: bool
    cdi_folders: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    cgroup_driver: str = ""
    runc: str = ""


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """One container; ``status`` is the engine's word (running, exited ...), ``health`` "" without a check."""

    id: str
    name: str
    image: str
    status: str
    health: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """One image: the engine's id, its references, its size with all layers, labels, digests in registries."""

    id: str
    references: tuple[str, ...]
    size_bytes: int
    labels: Mapping[str, str]
    digests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ran:
    """A container that ran to its end: exit code, all of its standard output, the last of its errors."""

    exit_code: int
    output: str
    last_lines: tuple[str, ...]


class Engine:
    """The engine behind a Unix socket; nothing is asked of it before the first call.

    A command uses ``async with Engine(socket) as engine``; the hub keeps one for its life.
    """

    def __init__(self, socket: Path | str) -> None:
        self._socket = str(socket)

    @cached_property
    def _docker(self) -> aiodocker.Docker:
        # Made at the first call: it needs a running event loop.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        return aiodocker.Docker(url=f"unix://{self._socket}", timeout=timeout)

    async def __aenter__(self) -> Engine:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._docker.close()

    async def facts(self) -> EngineFacts:
        """What the engine says of itself.

        Raises:
            EngineError: It does not answer, or is older than 20.10.
        """
        with _ours("The Docker engine does not answer."):
            info = await asyncio.wait_for(self._docker.system.info(), timeout=20)
            version = await self._docker.version()
        api = tuple(int(part) for part in version["ApiVersion"].split("."))
        if api < OLDEST_API:
            raise EngineError(
                f"The Docker engine is version {version['Version']}.", fix="Labdock needs 20.10 or newer."
            )
        return EngineFacts(
            version=version["Version"],
            api=(api[0], api[1]),
            cpus=info["NCPU"],
            memory_bytes=info["MemTotal"],
            root_dir=info["DockerRootDir"],
            rootless=any("rootless" in option for option in info.get("SecurityOptions") or ()),
            cdi_folders=tuple(info.get("CDISpecDirs") or ()),
            runtimes=tuple(sorted(info.get("Runtimes") or ())),
            cgroup_driver=info.get("CgroupDriver", ""),
            runc=next(
                (part["Version"] for part in version.get("Components") or () if part["Name"] == "runc"), ""
            ),
        )

    async def has_image(self, reference: str) -> bool:
        return await self.image(reference) is not None

    async def image_size_bytes(self, reference: str) -> int | None:
        """The size of an image as the engine counts it, or None if it is not there."""
        found = await self.image(reference)
        return None if found is None else found.size_bytes

    async def image(self, reference: str) -> ImageFacts | None:
        """What the engine knows of the image *reference*, or None if it is not there."""
        with _ours(f"The engine does not describe {reference}."):
            try:
                shown = await self._docker.images.inspect(reference)
            except DockerError as error:
                if error.status == 404:
                    return None
                raise
        config = shown.get("Config") or {}
        return ImageFacts(
            id=shown["Id"],
            references=tuple(sorted(shown.get("RepoTags") or ())),
            size_bytes=int(shown["Size"]),
            labels=config.get("Labels") or {},
            digests=tuple(shown.get("RepoDigests") or ()),
        )

    async def image_references(self) -> Mapping[str, str]:
        """Every reference that the engine has an image under, and that image's id."""
        with _ours("The engine does not list its images."):
            found = await self._docker._query_json("images/json", "GET")
        return {reference: one["Id"] for one in found for reference in one.get("RepoTags") or ()}

    async def untag(self, reference: str) -> None:
        """Take *reference* from its image, and remove the image if it has no other.

        Raises:
            EngineError: A container uses it.
        """
        with _ours(f"The engine keeps {reference}."):
            try:
                await self._docker.images.delete(reference)
            except DockerError as error:
                if error.status != 404:
                    raise

    async def fetch(self, reference: str, *, on_line: Callable[[str], None]) -> None:
        """Fetch *reference* from its registry; *on_line* gets what is under way, with the megabytes left.

        Raises:
            EngineError: No registry answers, or it has no such image.
        """
        left: dict[str, int] = {}
        try:
            async for event in self._docker.images.pull(reference, stream=True):
                detail = event.get("progressDetail") or {}
                if "total" in detail and "id" in event:
                    left[event["id"]] = detail["total"] - detail.get("current", 0)
                elif event.get("status") in {"Download complete", "Pull complete", "Already exists"}:
                    left.pop(event.get("id", ""), None)
                mb = sum(left.values()) / 1e6
                on_line(f"{event.get('status', '')}, {mb:.0f} MB left" if mb else event.get("status", ""))
        except (DockerError, aiohttp.ClientError) as error:
            said = error.message if isinstance(error, DockerError) else str(error)
            raise EngineError(
                f"The image {reference} cannot be fetched: {said}",
                fix="Is it spelt right, does this machine reach its registry, and does `docker pull` work?",
            ) from error

    async def save(self, references: Sequence[str], path: Path, *, on_bytes: Callable[[int], None]) -> int:
        """Write the images *references* to *path*, one tar for all; returns and tells how many bytes.

        Raises:
            EngineError: One is not there.
            HostError: The file cannot be written.
        """
        with _ours("The engine did not save the images."):
            names = urlencode([("names", reference) for reference in references])
            async with self._docker._query(f"images/get?{names}", "GET") as response:
                try:
                    with path.open("wb") as stream:
                        async for chunk in response.content.iter_chunked(2**20):
                            await asyncio.to_thread(stream.write, chunk)
                            on_bytes(stream.tell())
                        return stream.tell()
                except OSError as error:
                    raise HostError(f"{path} cannot be written: {error.strerror}.") from error

    async def load(self, path: Path) -> tuple[str, ...]:
        """Take the images in the tar at *path*; returns their references.

        Raises:
            EngineError: It is no such file, or is damaged.
        """
        loaded: list[str] = []
        try:
            with path.open("rb") as stream:
                async for event in self._docker.images.import_image(stream, stream=True):
                    found = re.match(r"Loaded image: (\S+)", str(event.get("stream", "")))
                    if found:
                        loaded.append(found[1])
        except (DockerError, aiohttp.ClientError, OSError) as error:
            said = error.message if isinstance(error, DockerError) else str(error)
            raise EngineError(
                f"{path} cannot be loaded: {said}",
                fix="Is it whole, and written by `labdock images save`?",
            ) from error
        if not loaded:
            raise EngineError(f"{path} holds no image.", fix="`labdock images save` writes such a file.")
        return tuple(loaded)

    async def run(self, name: str, body: Mapping[str, Any], *, timeout_s: float) -> Ran:
        """Make a container called *name*, let it run to its end, and remove it.

        Raises:
            EngineError: It cannot be made or started, or does not end in time.
        """
        await self.remove(name)
        await self.create(name, body)
        try:
            container = self._docker.containers.container(name)
            with _ours(f"{name} did not end within {timeout_s:.0f} s."):
                await container.start()
                ended = await asyncio.wait_for(container.wait(), timeout=timeout_s)
            with _ours(f"The engine does not give the output of {name}."):
                output = "".join(await container.log(stdout=True))
                errors = "".join(await container.log(stderr=True, tail=LAST_LINES))
            return Ran(int(ended["StatusCode"]), output, tuple(errors.splitlines()[-LAST_LINES:]))
        finally:
            await self.remove(name)

    async def pull(self, reference: str, *, timeout_s: float) -> bool:
        """Fetch *reference* from its registry; False when none answers in time or it has no such image."""
        try:
            await asyncio.wait_for(self._docker.images.pull(reference), timeout=timeout_s)
        except (DockerError, TimeoutError, aiohttp.ClientError):
            return False
        return True

    async def tag(self, reference: str, new: str) -> None:
        repository, _, tag = new.rpartition(":")
        with _ours(f"The engine did not tag {reference}."):
            await self._docker.images.tag(reference, repo=repository, tag=tag)

    async def build(
        self,
        tag: str,
        files: Mapping[str, bytes | Path],
        *,
        arguments: Mapping[str, str],
        labels: Mapping[str, str],
        on_line: Callable[[str], None],
        fresh: bool = False,
    ) -> None:
        """Build an image called *tag* from *files* (path to bytes, or to a file that is read).

        A *fresh* one takes nothing from the engine's cache.

        Raises:
            BuildError: With the last lines of the build, and the line of the Dockerfile that failed.
        """
        lines: list[str] = []
        step = ""
        try:
            context = await asyncio.to_thread(_context, files)
            events = self._docker.images.build(
                fileobj=context,
                encoding="identity",
                tag=tag,
                buildargs=arguments,
                labels=labels,
                nocache=fresh,
                forcerm=True,
                stream=True,
            )
            rest = ""
            async for event in events:
                # A line may come in several events, and an event may hold several.
                *whole, rest = (rest + str(event.get("stream", ""))).split("\n")
                for line in (_COLOUR.sub("", one) for one in whole):
                    if line.strip():
                        begun = re.match(r"Step \d+/\d+ : (.*)", line)
                        step = begun[1] if begun else step
                        lines.append(line.rstrip())
                        on_line(lines[-1])
        except (DockerError, aiohttp.ClientError, OSError) as error:
            text = error.message if isinstance(error, DockerError) else str(error)
            raise BuildError(
                f"The image {tag} could not be built: {text}",
                fix="Mend the cause and run the command again; it goes on where it stopped.",
                details=tuple(lines[-LAST_LINES:]),
                step=step,
            ) from error

    async def containers(self, labels: Mapping[str, str]) -> tuple[ContainerFacts, ...]:
        """All containers, running or not, with *labels*, in order of name."""
        filters = {"label": [f"{key}={value}" for key, value in labels.items()]}
        with _ours("The engine does not list its containers."):
            found = await self._docker.containers.list(all=True, filters=filters)
            shown = [await _inspect(container) for container in found]
        return tuple(sorted((facts for facts in shown if facts), key=lambda c: c.name))

    async def create(self, name: str, body: Mapping[str, Any]) -> None:
        """Make a container called *name*.

        Raises:
            RefusedError: The guard before the engine refused it; its sentence begins with the field.
        """
        with _ours(f"The engine did not make {name}."):
            try:
                await self._docker.containers.create(config=dict(body), name=name)
            except DockerError as error:
                if error.status != 403:
                    raise
                raise RefusedError(error.message, field=error.message.partition(":")[0]) from error

    async def start(self, name: str) -> None:
        with _ours(f"The engine did not start {name}."):
            await self._docker.containers.container(name).start()

    async def stop(self, name: str, *, grace_s: int) -> None:
        """Stop *name* within *grace_s* seconds; one that is not there is stopped already."""
        with _ours(f"The engine did not stop {name}."), _missing_is_fine():
            await self._docker.containers.container(name).stop(t=grace_s)

    async def restart(self, name: str, *, grace_s: int) -> None:
        with _ours(f"The engine did not restart {name}."):
            await self._docker.containers.container(name).restart(t=grace_s)

    async def remove(self, name: str) -> None:
        """Remove the container *name*, running or not; when this returns, the name is free.

        Raises:
            EngineError: It is still there after half a minute.
        """
        with _ours(f"The engine did not remove {name}."), _missing_is_fine():
            # With the volumes that its image declared, which nobody else would remove.
            await self._docker.containers.container(name).delete(force=True, v=True)
            return
        # Somebody else removes it already, or it was never there.
        for _ in range(300):
            if await self.inspect(name) is None:
                return
            await asyncio.sleep(0.1)
        raise EngineError(f"{name} is still being removed after 30 seconds.")

    async def inspect(self, name: str) -> dict[str, Any] | None:
        """What the engine knows of the container *name*, or None if there is none."""
        with _ours(f"The engine does not describe {name}."):
            try:
                return dict(await self._docker.containers.container(name).show())
            except DockerError as error:
                if error.status == 404:
                    return None
                raise

    async def last_lines(self, name: str, count: int = LAST_LINES) -> tuple[str, ...]:
        """The last *count* lines that the container *name* printed, oldest first."""
        with _ours(f"The engine does not give the log of {name}."), _missing_is_fine():
            chunks = await self._docker.containers.container(name).log(stdout=True, stderr=True, tail=count)
            return tuple("".join(chunks).splitlines()[-count:])
        return ()

    async def follow_lines(self, name: str, count: int) -> AsyncIterator[str]:
        """The last *count* lines of *name*, and then each new one, until it stops."""
        container = self._docker.containers.container(name)
        with _ours(f"The engine does not give the log of {name}."):
            async for chunk in container.log(stdout=True, stderr=True, tail=count, follow=True):
                yield chunk.rstrip("\n")

    async def remove_network(self, name: str) -> None:
        """Remove the network *name*; one that is not there is gone already."""
        with _ours(f"The engine did not remove the network {name}."), _missing_is_fine():
            await (await self._docker.networks.get(name)).delete()

    async def network_subnets(self) -> tuple[tuple[str, str], ...]:
        """Name and subnet of every network of the engine that has one."""
        with _ours("The engine does not list its networks."):
            networks = await self._docker.networks.list()
        return tuple(
            (network["Name"], entry["Subnet"])
            for network in networks
            for entry in (network.get("IPAM") or {}).get("Config") or ()
            if entry.get("Subnet")
        )


async def _inspect(container: Any) -> ContainerFacts | None:
    try:
        shown = await container.show()
    except DockerError as error:
        if error.status == 404:  # gone between the list and the look
            return None
        raise
    state = shown["State"]
    return ContainerFacts(
        id=shown["Id"],
        name=shown["Name"].lstrip("/"),
        image=shown["Config"]["Image"],
        status=state["Status"],
        health=(state.get("Health") or {}).get("Status", ""),
        labels=shown["Config"]["Labels"] or {},
    )


def _context(files: Mapping[str, bytes | Path]) -> io.BufferedIOBase:
    """A build context as a tar; owners and times are fixed so that the engine's cache holds."""
    import tempfile  # noqa: PLC0415  only builds need it

    spool = tempfile.TemporaryFile()  # noqa: SIM115  the caller reads and drops it
    with tarfile.open(fileobj=spool, mode="w") as archive:
        for path, content in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            script = isinstance(content, bytes) and content.startswith(b"#!")
            entry.mode = 0o755 if script else 0o644
            if isinstance(content, Path):
                entry.size = content.stat().st_size
                with content.open("rb") as stream:
                    archive.addfile(entry, stream)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    spool.seek(0)
    return spool


class _ours:  # noqa: N801  reads as a phrase: ``with _ours("The engine did not ...")``
    """Turns the engine's and the transport's errors into EngineError, *doing* first."""

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, DockerError) and error.status != _NO_CONNECTION:
            raise EngineError(f"{self._doing} It says: {error.message}") from error
        if isinstance(error, (DockerError, aiohttp.ClientError, OSError, TimeoutError)):
            raise EngineError(
                f"{self._doing} ({getattr(error, 'message', error) or type(error).__name__})",
                fix="Is it running, and may you use its socket? `labdock doctor` looks.",
            ) from error


class _missing_is_fine:  # noqa: N801  reads as a phrase
    """Lets a 404 or a "not modified" of the engine pass: what should be gone is gone."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        return isinstance(error, DockerError) and error.status in {304, 404, 409}
