"""What happens to jobs while they run, and who wants to hear of it: the same from local processes and from clusters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tokensieve.sweep.job import JobSpec, Outcome


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that is over. `seconds` from the start of its process."""

    spec: JobSpec
    outcome: Outcome
    seconds: float


class Watcher(Protocol):
    """Called in the sweep's own process, between looks at its jobs."""

    def waits(self, reason: str) -> None:
        """No job can start for a reason that lies outside of this sweep."""

    def submitted(self, places: Sequence[tuple[JobSpec, str]]) -> None:
        """A cluster has queued these jobs, each under a name of its own."""

    def started(self, spec: JobSpec, host: str | None = None, restarts: int = 0) -> None:
        """The job runs: on `host`, or here. Also once it runs again, after `restarts` by the cluster's doing."""

    def preempted(self, spec: JobSpec) -> None:
        """The cluster took the job's node, or its time was over; it is queued again."""

    def ended(self, job: Ended) -> None:
        """The job is over, in whatever way."""
