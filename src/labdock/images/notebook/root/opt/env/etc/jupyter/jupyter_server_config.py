"""What every session's notebook server is set to; Jupyter gives this file ``c``."""

# ruff: noqa: F821  c is Jupyter's
# mypy: ignore-errors

import os
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

LABDOCK = "/usr/local/lib/labdock"
if LABDOCK not in sys.path:
    sys.path.append(LABDOCK)
import labdock_lazy  # noqa: E402

c.ServerApp.terminals_enabled = True
# The shim carries settings over from the classic notebook, which was never here.
c.ServerApp.jpserver_extensions = {
    **labdock_lazy.OFF,
    "notebook_shim": False,
    "labdock_lazy": True,
    "labdock_rights": True,
}
c.AsyncMappingKernelManager.kernel_manager_class = "labdock_kernels.KernelManager"
# What the hub says of somebody holds so many seconds here: whoever is shut out must be out soon.
c.HubOAuth.cache_max_age = 15
c.LabApp.check_for_updates_class = "labdock_updates.NewerImage"
# The environment is read-only: a manager that offers to install could only fail.
c.LabApp.extension_manager = "readonly"


def first_number(*paths):
    """The first number found in *paths*, or 0: no limit, or none that can be read."""
    for path in paths:
        try:
            text = Path(path).read_text().split()[0]
        except (OSError, IndexError):
            continue
        # Without a limit cgroup 2 says "max", and cgroup 1 a number beyond any memory.
        return int(text) if text.isdigit() and int(text) < 2**60 else 0
    return 0


def cpus():
    """How many processors the session may use, as a fraction; 0 without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        quota, period = (
            str(first_number(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us")) for name in ("quota", "period")
        )
    return int(quota) / int(period) if quota.isdigit() and int(quota) and int(period) else 0


# The display below the page: what this session uses, of what it may. The hub says nothing of limits.
c.ResourceUseDisplay.mem_limit = first_number(
    "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"
)
c.ResourceUseDisplay.track_cpu_percent = True
c.ResourceUseDisplay.cpu_limit = float(cpus())
# It compares per cent with processors, and would always be red; a busy processor is nothing to warn of.
c.ResourceUseDisplay.cpu_warning_threshold = 0.0
c.ResourceUseDisplay.show_host_usage = False
# It would look at every process once a second, in every idle session.
c.ResourceUseDisplay.enable_prometheus_metrics = False

# What the shared document remembers is of no use after the session, and a database in a home on a network
# drive is slow.
RUN = Path(os.environ.get("TMPDIR", "/tmp")) / f"labdock-{os.getuid()}"  # noqa: S108  the session's own
with suppress(OSError):
    RUN.mkdir(mode=0o700, exist_ok=True)
    c.SQLiteYStore.db_path = f"{RUN}/shared-documents.db"
    c.BaseFileIdManager.db_path = f"{RUN}/file-ids.db"
    c.YDocExtension.session_store_path = f"{RUN}/shared-sessions.json"

if find_spec("tensorboard") is not None:
    c.ServerProxy.servers = {
        "tensorboard": {
            "command": [
                "tensorboard",
                "--logdir",
                ".",
                "--port",
                "{port}",
                "--path_prefix",
                "{base_url}tensorboard",
            ],
            "absolute_url": True,
            "timeout": 60,
            "new_browser_tab": True,
            "launcher_entry": {"title": "TensorBoard", "category": "Other"},
        }
    }
