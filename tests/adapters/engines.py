"""An engine in memory that does what the command line asks of one."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

from aiohttp import web

from tests.agent.engines import FakeContainer, FakeEngine

SLEEPS = ["sleep", "1000"]


class WholeFakeEngine(FakeEngine):
    """The agent's fake engine with what the command line needs on top: facts, builds, networks.

    A container runs its command on this machine, when it is one that ends at once; so does a build.
    """

    image = "small:1"

    def __init__(self, socket_path: str) -> None:
        super().__init__(socket_path)
        self.sizes: dict[str, int] = {self.image: 7}
        self.ids: dict[str, str] = {}
        self.networks: dict[str, str] = {"none": ""}
        self.version = {"Version": "20.10.24", "ApiVersion": "1.41"}
        self.info = {
            "NCPU": 4,
            "MemTotal": 2**33,
            "DockerRootDir": "/var/lib/docker",
            "SecurityOptions": None,
        }
        self.registry: list[dict[str, str]] | None = None
        self.removal_s = 0.0
        self.hangs_up_in_builds = False
        self.image_labels: dict[str, dict[str, str]] = {}

    def app(self) -> web.Application:
        app = super().app()
        versioned = "/v{version}"
        app.router.add_get(f"{versioned}/info", self._info)
        app.router.add_post(f"{versioned}/build", self._build)
        app.router.add_post(f"{versioned}/images/create", self._pull)
        app.router.add_post(f"{versioned}/images/{{name:.+}}/tag", self._tag)
        app.router.add_get(f"{versioned}/images/json", self._list_images)
        app.router.add_get(f"{versioned}/images/get", self._save)
        app.router.add_post(f"{versioned}/images/load", self._load)
        app.router.add_delete(f"{versioned}/images/{{name:.+}}", self._delete_image)
        app.router.add_post(f"{versioned}/containers/{{id}}/wait", self._wait)
        app.router.add_get(f"{versioned}/networks", self._networks)
        app.router.add_get(f"{versioned}/networks/{{name}}", self._network)
        app.router.add_delete(f"{versioned}/networks/{{name}}", self._remove_network)
        app.router.add_post(f"{versioned}/containers/{{id}}/restart", self._restart)
        return app

    def make_network(self, name: str, subnet: str) -> None:
        self.networks[name] = subnet

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response(self.version)

    async def _info(self, request: web.Request) -> web.Response:
        return web.json_response(self.info)

    async def _image(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.sizes:
            return web.json_response({"message": f"No such image: {name}"}, status=404)
        return web.json_response(self._shown(name))

    def _id(self, name: str) -> str:
        return self.ids.setdefault(name, f"sha256:{hashlib.sha256(name.encode()).hexdigest()}")

    def _shown(self, name: str) -> dict[str, object]:
        one = self._id(name)
        return {
            "Id": one,
            "Size": self.sizes[name],
            "RepoTags": [tag for tag in self.sizes if self._id(tag) == one],
            "Config": {"Labels": self.image_labels.get(name), "Env": ["PATH=/bin"]},
        }

    async def _list_images(self, request: web.Request) -> web.Response:
        shown = {str(one["Id"]): one for one in map(self._shown, self.sizes)}
        return web.json_response(list(shown.values()))

    async def _delete_image(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.sizes:
            return web.json_response({"message": f"No such image: {name}"}, status=404)
        if any(one.body["Image"] == name for one in self.by_id.values()):
            return web.json_response({"message": f"{name} is being used by a container"}, status=409)
        del self.sizes[name]
        return web.json_response([{"Untagged": name}])

    async def _save(self, request: web.Request) -> web.Response:
        names = request.query.getall("names")
        if missing := [name for name in names if name not in self.sizes]:
            return web.json_response({"message": f"No such image: {missing[0]}"}, status=404)
        return web.Response(body=json.dumps({name: self.sizes[name] for name in names}).encode())

    async def _load(self, request: web.Request) -> web.Response:
        try:
            images = json.loads(await request.read())
        except ValueError:
            return web.json_response({"message": "unexpected EOF"}, status=500)
        self.sizes |= images
        events = ({"stream": f"Loaded image: {name}\n"} for name in images)
        return web.Response(text="".join(json.dumps(event) + "\r\n" for event in events))

    async def _tag(self, request: web.Request) -> web.Response:
        new, name = f"{request.query['repo']}:{request.query['tag']}", request.match_info["name"]
        if name not in self.sizes:
            return web.json_response({"message": f"No such image: {name}"}, status=404)
        self.sizes[new], self.ids[new] = self.sizes[name], self._id(name)
        return web.Response(status=201)

    async def _pull(self, request: web.Request) -> web.Response:
        if self.registry is None:
            await asyncio.sleep(10)
        self.sizes[request.query["fromImage"]] = 1
        return web.Response(text="".join(json.dumps(event) + "\n" for event in self.registry or ()))

    async def _create(self, request: web.Request) -> web.Response:
        image = (await request.json())["Image"]
        if image not in self.sizes:
            return web.json_response({"message": f"No such image: {image}"}, status=404)
        return await super()._create(request)

    async def _start(self, request: web.Request) -> web.Response:
        one = self._find(request)
        one.state = "running"
        if one.body["Cmd"] != SLEEPS:
            await self._run(one)
        return web.Response(status=204)

    async def _run(self, one: FakeContainer) -> None:
        ran = await asyncio.to_thread(subprocess.run, one.body["Cmd"], stdout=subprocess.PIPE, check=False)
        one.output += ran.stdout.splitlines(keepends=True)
        self.end(one, ran.returncode)

    async def _wait(self, request: web.Request) -> web.Response:
        one = self._find(request)
        while one.state == "running":
            await asyncio.sleep(0.02)
        return web.json_response({"StatusCode": one.exit_code})

    async def _restart(self, request: web.Request) -> web.Response:
        self._find(request).state = "running"
        return web.Response(status=204)

    async def _stop(self, request: web.Request) -> web.Response:
        return (
            web.Response(status=304)
            if self._find(request).state == "exited"
            else await super()._stop(request)
        )

    async def _delete(self, request: web.Request) -> web.Response:
        one = self._find(request)
        if one.state == "removing":
            return web.json_response({"message": f"removal of {one.name} is already in progress"}, status=409)
        one.state = "removing"
        await asyncio.sleep(self.removal_s)
        del self.by_id[one.id]
        return web.Response(status=204)

    async def _networks(self, request: web.Request) -> web.Response:
        return web.json_response(
            [
                {"Name": name, "IPAM": {"Config": [{"Subnet": subnet}] if subnet else None}}
                for name, subnet in self.networks.items()
            ]
        )

    async def _network(self, request: web.Request) -> web.Response:
        if (name := request.match_info["name"]) not in self.networks:
            return web.json_response({"message": f"network {name} not found"}, status=404)
        return web.json_response({"Id": name, "Name": name})

    async def _remove_network(self, request: web.Request) -> web.Response:
        del self.networks[request.match_info["name"]]
        return web.Response(status=204)

    async def _build(self, request: web.Request) -> web.StreamResponse:
        tag = request.query["t"]
        response = web.StreamResponse()
        await response.prepare(request)

        async def say(**event: object) -> None:
            await response.write(json.dumps(event).encode() + b"\r\n")

        context = Path(self.socket).parent / "context"
        with tarfile.open(fileobj=io.BytesIO(await request.read())) as archive:
            archive.extractall(context, filter="tar")
        lines = (context / "Dockerfile").read_text().splitlines()
        for number, line in enumerate(lines, 1):
            await say(stream=f"Step {number}/{len(lines)} : {line}\n")
            if self.hangs_up_in_builds:
                assert request.transport is not None
                request.transport.close()
                return response
            if line.startswith("RUN "):
                ran = await asyncio.to_thread(
                    subprocess.run,
                    ["sh", "-c", line[4:]],
                    cwd=context,
                    stdout=subprocess.PIPE,
                    text=True,
                    check=False,
                )
                await say(stream=ran.stdout)
                if ran.returncode:
                    message = f"The command returned a non-zero code: {ran.returncode}"
                    await say(errorDetail={"message": message}, error=message)
                    return response
        self.sizes[tag] = 1
        self.image_labels[tag] = json.loads(request.query["labels"])
        return response
