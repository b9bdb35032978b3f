"""What one sandbox may take of its host."""

from dataclasses import dataclass
from typing import Self

from handinger.settings import Settings

# Behind the server in everything: an idle processor is theirs, a busy one is the server's first.
_NICE = 15
_OPEN_FILES = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Each holds for all that runs in one sandbox together, unless it says otherwise."""

    memory_bytes: int
    memory_reserve_bytes: int  # that stay available on the host, where no kernel counts for us
    processes: int  # threads count
    cpus: float  # processors' worth of time per second of wall time
    cpu_s: int  # processor time of one process
    file_bytes: int  # of one file
    disk_bytes: int  # of the workspace and the temporary folder
    disk_entries: int  # files, folders and links in both
    disk_reserve_bytes: int  # that stay free on the host's disk, whoever fills it
    output_bytes: int  # of one command
    open_files: int = _OPEN_FILES  # of one process
    nice: int = _NICE

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """As this server is configured."""
        return cls(
            memory_bytes=settings.sandbox_memory_bytes,
            memory_reserve_bytes=settings.sandbox_memory_reserve_bytes,
            processes=settings.sandbox_processes,
            cpus=settings.sandbox_cpus,
            cpu_s=settings.sandbox_cpu_s,
            file_bytes=settings.max_file_bytes,
            disk_bytes=settings.sandbox_disk_bytes,
            disk_entries=settings.sandbox_disk_entries,
            disk_reserve_bytes=settings.sandbox_disk_reserve_bytes,
            output_bytes=settings.sandbox_output_bytes,
        )

    def inside(self, *, counted: bool) -> dict[str, int]:
        """What the first process of a sandbox has to know. `counted`: see `View.arguments`."""
        return {
            "memory_bytes": self.memory_bytes,
            "memory_reserve_bytes": 0 if counted else self.memory_reserve_bytes,
            "disk_bytes": self.disk_bytes,
            "processes": self.processes,
            "cpu_s": self.cpu_s,
            "file_bytes": self.file_bytes,
            "open_files": self.open_files,
            "nice": self.nice,
        }
