"""The stock stack as jupyterhub-deploy-docker sets it up; JupyterHub gives this file ``c``."""

from __future__ import annotations

import os
from typing import Any

c: Any = globals()["c"]
run, label = os.environ["BENCH_RUN"], os.environ["BENCH_LABEL"]

c.JupyterHub.spawner_class = "dockerspawner.DockerSpawner"
c.DockerSpawner.image = os.environ["BENCH_NOTEBOOK"]
c.DockerSpawner.network_name = os.environ["BENCH_NETWORK"]
c.DockerSpawner.use_internal_ip = True
c.DockerSpawner.cmd = "jupyterhub-singleuser"
c.DockerSpawner.notebook_dir = "/home/jovyan/work"
c.DockerSpawner.volumes = {os.environ["BENCH_HOMES"] + "{username}": "/home/jovyan/work"}
c.DockerSpawner.remove = True
c.DockerSpawner.prefix = os.environ["BENCH_PREFIX"]
c.DockerSpawner.extra_create_kwargs = {"labels": {label: run}}

c.JupyterHub.hub_ip = "hub"
c.JupyterHub.hub_port = 8080
c.JupyterHub.cookie_secret_file = "/data/jupyterhub_cookie_secret"  # noqa: S105  a path
c.JupyterHub.db_url = "sqlite:////data/jupyterhub.sqlite"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True

if os.environ["BENCH_RAISED"]:
    c.DockerSpawner.start_timeout = 600
    c.DockerSpawner.http_timeout = 600
    c.DockerSpawner.client_kwargs = {"timeout": 600}

# What the bench asks through.
c.JupyterHub.services = [{"name": "bench", "api_token": os.environ["BENCH_TOKEN"]}]
c.JupyterHub.load_roles = [
    {"name": "bench", "services": ["bench"], "scopes": ["admin:users", "admin:servers"]}
]
