"""Images as files, and images that nobody needs: save, load, prune."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from labdock.adapters import host
from labdock.adapters.engine import Engine
from labdock.cli.console import Console
from labdock.cli.instance import Instance
from labdock.cli.shelves import Line, claim_of, write_shelves
from labdock.core.compose import LABEL_PART
from labdock.core.errors import BadRequestError, EngineError, HostError
from labdock.core.image import ImageSet
from labdock.core.prune import Images, plan_prune
from labdock.core.session import LABEL_INSTANCE, LABEL_ROLE, ROLE_PART
from labdock.core.shelf import Shelf, Shelves, format_gb


def counted(images: Collection[str]) -> str:
    return "1 image" if len(images) == 1 else f"{len(images)} images"


async def save(
    engine: Engine,
    lines: tuple[Line, ...],
    shelves: Shelves,
    images: ImageSet,
    path: Path,
    chosen: Iterable[str],
    console: Console,
) -> dict[str, Any]:
    """Write images to *path*: those *chosen*, or all that this Labdock runs; returns what was written.

    Raises:
        HostError: *path* cannot be written.
        EngineError: One is not built.
    """
    wanted = tuple(chosen)
    tags = {line.making.tag for line in lines if not wanted or line.image.id in wanted}
    # What people have now may be older than what the file says.
    current = {shelves.of(line.image.id).current for line in lines if not wanted or line.image.id in wanted}
    by_reference = await engine.image_references()
    kept = {reference for reference, image in by_reference.items() if reference in tags}
    kept |= {
        reference
        for reference, image in by_reference.items()
        if reference.startswith("labdock/") and image in {by_reference.get(one) for one in current - {""}}
    }
    if not wanted:
        kept |= {images.server.tag, images.base.tag} & by_reference.keys()
    missing = [
        line.image.id
        for line in lines
        if (not wanted or line.image.id in wanted)
        and line.making.tag not in by_reference
        and shelves.of(line.image.id).current not in by_reference
    ]
    if missing:
        raise EngineError(
            f"Not built yet: {', '.join(missing)}.",
            fix=f"`labdock images build {' '.join(missing)}`, then save them.",
        )
    beside = path.with_name(f".{path.name}.part")
    try:
        with console.step(f"Write {counted(kept)} to {path}") as show:
            size_bytes = await engine.save(sorted(kept), beside, on_bytes=lambda size: show(format_gb(size)))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return {"file": str(path), "size_bytes": size_bytes, "images": sorted(kept)}


async def load(engine: Engine, path: Path, console: Console) -> dict[str, Any]:
    """Take the images in *path*; returns their references.

    Raises:
        HostError: It cannot be read.
        EngineError: It holds no images, or is damaged.
    """
    if not host.is_file(path):
        raise HostError(f"{path} is not there, or is no file.")
    with console.step(f"Read {path}"):
        return {"file": str(path), "images": list(await engine.load(path))}


async def images_in_use(engine: Engine) -> frozenset[str]:
    """The references and ids of the images of every container on the engine, running or not."""
    found: set[str] = set()
    for container in await engine.containers({}):
        found.add(container.image)
        shown = await engine.inspect(container.name)
        if shown is not None:
            found.add(shown["Image"])
    return frozenset(found)


async def look_for_unneeded(
    instance: Instance,
    engine: Engine,
    lines: tuple[Line, ...],
    shelves: Shelves,
    images: ImageSet,
    *,
    earlier: int,
) -> tuple[str, ...]:
    """The references that nobody needs; *earlier* releases of each image stay for a rollback."""
    ids = {line.image.id for line in lines}
    kept = {
        release.reference
        for image, shelf in shelves.by_id.items()
        if image in ids
        for release in shelf.kept(earlier)
    }
    kept |= {claim_of(instance, line.image.id, line.making.version) for line in lines}
    wanted = {recipe.tag for line in lines for recipe in line.making.recipes}
    wanted |= {images.base.tag, images.server.tag, images.simulation.tag}
    for part in await engine.containers({LABEL_INSTANCE: instance.name, LABEL_ROLE: ROLE_PART}):
        if LABEL_PART in part.labels:
            name, _, version = part.image.removeprefix("labdock/").partition(":")
            kept.add(claim_of(instance, name, version))
    for recipe in (images.server, images.simulation):
        kept.add(claim_of(instance, recipe.name, recipe.tag.rpartition(":")[2]))
    return plan_prune(
        Images(await engine.image_references(), await images_in_use(engine)),
        instance=instance.name,
        kept=frozenset(kept),
        wanted=frozenset(wanted),
    )


async def prune(
    instance: Instance, engine: Engine, shelves: Shelves, unneeded: tuple[str, ...], console: Console
) -> dict[str, Any]:
    """Take the references *unneeded* away, and forget the releases that are gone with them."""
    root = Path((await engine.facts()).root_dir)
    before = host.free_bytes(root)
    removed, kept = [], []
    with console.step(f"Remove {counted(unneeded)}") as show:
        for reference in unneeded:
            try:
                await engine.untag(reference)
                removed.append(reference)
                show(reference)
            except EngineError:
                # Somebody began to use it meanwhile, or an image stands on it that is needed.
                kept.append(reference)
    left = {name: shelf.without(removed) for name, shelf in shelves.by_id.items()}
    write_shelves(instance, Shelves({name: shelf for name, shelf in left.items() if shelf != Shelf()}))
    return {"removed": removed, "kept": kept, "freed_bytes": max(0, host.free_bytes(root) - before)}


def one_of(lines: tuple[Line, ...], image: str) -> Line:
    """The line of *image*.

    Raises:
        BadRequestError: There is none.
    """
    for line in lines:
        if line.image.id == image:
            return line
    raise unknown_image(image, tuple(line.image.id for line in lines))


def unknown_image(image: str, known: tuple[str, ...]) -> BadRequestError:
    """That labdock.yaml has no image called *image*, and which it has."""
    return BadRequestError(
        f"There is no image {image!r} in labdock.yaml.", field="image", fix=f"Known: {', '.join(known)}."
    )
