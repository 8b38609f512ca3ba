"""What the kernel has counted for a container: memory and CPU time, with cgroup v1 and v2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from labdock.core.errors import HostError

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Cgroup:
    """Where one container is counted; *version* is 1 or 2."""

    version: int
    memory: Path
    cpu: Path

    def memory_bytes(self) -> int:
        """Memory in use, less the file cache that the kernel may drop at once, as ``docker stats`` has it."""
        if self.version == 2:
            usage, cache = "memory.current", "inactive_file"
        else:
            usage, cache = "memory.usage_in_bytes", "total_inactive_file"
        used = int((self.memory / usage).read_text())
        return used - counters((self.memory / "memory.stat").read_text())[cache]

    def cpu_seconds(self) -> float:
        """CPU time since the container's start, in seconds of one core."""
        if self.version == 2:
            return counters((self.cpu / "cpu.stat").read_text())["usage_usec"] / 1e6
        return int((self.cpu / "cpuacct.usage").read_text()) / 1e9


def counters(text: str) -> dict[str, int]:
    """The lines ``name value`` of a statistics file."""
    return {name: int(value) for name, value in (line.split() for line in text.splitlines() if line)}


def find_cgroup(membership: str, root: Path = ROOT) -> Cgroup:
    """The cgroup that the text of ``/proc/<pid>/cgroup``, *membership*, names.

    Raises:
        HostError: It names none that counts memory and CPU time.
    """
    places = {}
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            places[controller] = path.lstrip("/")
    if "memory" in places and "cpuacct" in places:
        return Cgroup(1, root / "memory" / places["memory"], root / "cpuacct" / places["cpuacct"])
    if "" in places:
        return Cgroup(2, root / places[""], root / places[""])
    raise HostError("The kernel counts neither memory nor CPU time for the containers here.")


def cgroup_of(pid: int) -> Cgroup:
    """The cgroup of the process *pid* of this machine.

    Raises:
        HostError: There is no such process any more, or nothing is counted for it.
    """
    try:
        return find_cgroup(Path(f"/proc/{pid}/cgroup").read_text())
    except OSError as error:
        raise HostError(f"The process {pid} cannot be looked at: {error.strerror}.") from error
