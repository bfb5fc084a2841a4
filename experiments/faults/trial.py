"""One sweep under kills: who dies when, and what must stay as it is."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from outcome import fingerprint, read_manifest, sweep_folder
from processes import POLL_SECONDS, RunningJob, SweepProcess, TrackingServer, watch_jobs

SWEEP_SECONDS = 400.0
RANK_SECONDS = 90.0
MOST_SESSIONS = 80
_KINDS = ("job", "sweep", "server", "rank")


@dataclass(frozen=True, slots=True)
class Kill:
    """What dies, and when: on entering `stage`, or `wait_seconds` later. `target`: job, sweep, server, rank 0, ..."""

    target: str
    stage: str
    wait_seconds: float = 0.0
    after_checkpoint: bool = False  # of a rank: once this session has written one


@dataclass(slots=True)
class Trial:
    """`pending`: kills to come. `done`: those that happened, with the stage that status.json named at that moment.

    `touched`: jobs that were finished, and whose files changed after that.
    """

    name: str
    output_dir: Path
    arguments: list[str]
    log: Path
    pending: list[Kill]
    server: TrackingServer | None = None
    order: list[str] = field(default_factory=list)  # the stages of every job
    done: list[dict[str, Any]] = field(default_factory=list)
    sessions: int = 0
    starts: int = 0
    touched: list[str] = field(default_factory=list)
    _finished: dict[str, dict[str, Any]] = field(default_factory=dict)

    def run(self) -> None:
        """Start, kill, resume, until the sweep has finished.

        Raises:
            SystemExit: it hangs, or does not finish although nothing is killed any more.
        """
        code, calm = 1, 0
        while code != 0:
            if self.server is not None:
                self.server.start()
            begun = any(self.output_dir.glob("sweeps/*/sweep.json"))
            what = ["sweep.resume=latest"] if begun else self.arguments
            calm = calm + 1 if not self.pending else 0
            if calm > 2 or self.sessions >= MOST_SESSIONS:
                raise SystemExit(f"{self.name}: does not finish; see {self.log}")
            sweep = SweepProcess([*what, *self._places()], self.log)
            self.sessions += 1
            self._disturb(sweep)
            code = sweep.wait(SWEEP_SECONDS)
            self._check_finished()

    def _places(self) -> list[str]:
        tracking = ["tracking=none"] if self.server is None else ["tracking=server", f"tracking.uri={self.server.uri}"]
        return [f"output_dir={self.output_dir}", *tracking]

    def _disturb(self, sweep: SweepProcess) -> None:
        plan: dict[Path, list[Kill]] | None = None
        for job in watch_jobs(sweep):
            self.starts += 1
            if plan is None:
                plan = self._assign()
            for kill in plan.pop(job.folder, []):
                if not self._carry_out(kill, job, sweep):
                    break

    def _assign(self) -> dict[Path, list[Kill]]:
        """Every unfinished job gets a kill, so that one start of the sweep serves many; one takes the sweep along.

        In every second session the first job is left in peace: something must finish between kills.
        """
        jobs = self._unfinished()
        kills = {kind: [kill for kill in self.pending if kill.target.split()[0] == kind] for kind in _KINDS}
        single = [*kills["rank"], *kills["job"]]
        peaceful = jobs[:1] if len(jobs) > 2 and self.sessions % 2 == 0 else []
        plan: dict[Path, list[Kill]] = {}
        if kills["sweep"] and (len(jobs) > 1 or not single):
            plan[jobs[-1 if single else 0]] = [kills["sweep"][0]]  # the first, once nothing else takes jobs from it
        for job in jobs:
            if job not in peaceful and job not in plan and single:
                plan[job] = [single.pop(0)]
        if kills["server"] and jobs and self.sessions % 2 == 1:
            plan[jobs[0]] = [kills["server"][0], *plan.get(jobs[0], [])]
        return plan

    def _carry_out(self, kill: Kill, job: RunningJob, sweep: SweepProcess) -> bool:
        """Whether it happened; a kill that came too late is tried on a later session, earlier in the stage."""
        if not self._await(kill, job, sweep):
            return False
        if not kill.target.startswith("rank"):
            time.sleep(kill.wait_seconds)
        found = str(job.status().get("stage"))
        self.pending.remove(kill)
        if not self._strike(kill, job, sweep):
            self.pending.append(Kill(kill.target, kill.stage, kill.wait_seconds / 2))
            return False
        session = {"found": found, "session": self.sessions, "job": job.folder.name}
        self.done.append(asdict(kill) | session)
        return True

    def _await(self, kill: Kill, job: RunningJob, sweep: SweepProcess) -> bool:
        """Whether this session of the job came to the stage. Until it writes, status.json is of an earlier session."""
        while job.is_alive() and not sweep.is_over():
            status = job.status()
            if status.get("status") == "RUNNING" and self._is_reached(kill.stage, status) and _has_written(job):
                return True
            time.sleep(POLL_SECONDS)
        return False

    def _is_reached(self, stage: str, status: dict[str, Any]) -> bool:
        """A stage whose result is cached may be over before it is seen: then the next one is as good."""
        now = str(status.get("stage"))
        known = stage in self.order and now in self.order
        return now == stage or (known and self.order.index(now) > self.order.index(stage))

    def _strike(self, kill: Kill, job: RunningJob, sweep: SweepProcess) -> bool:
        """Whether there was something to kill."""
        if kill.target == "server":
            assert self.server is not None
            self.server.kill()
            return True
        if sweep.is_over() or not job.is_alive():
            return False
        if kill.target == "sweep":
            sweep.kill()
            return True
        victim = job.pid if kill.target == "job" else self._find_rank(kill, job)
        if victim is None:
            return False
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def _find_rank(self, kill: Kill, job: RunningJob) -> int | None:
        deadline = time.monotonic() + RANK_SECONDS
        while job.is_alive() and time.monotonic() < deadline:
            victim = job.ranks().get(int(kill.target.split()[1]))
            if victim is not None and (not kill.after_checkpoint or _has_written(job, "checkpoints/last.ckpt")):
                time.sleep(kill.wait_seconds)
                return victim
            time.sleep(POLL_SECONDS)
        return None

    def _unfinished(self) -> list[Path]:
        folder = sweep_folder(self.output_dir)
        entries = read_manifest(self.output_dir)["jobs"]
        return [folder / entry["dir"] for entry in entries if entry["state"] != "FINISHED"]

    def _check_finished(self) -> None:
        """Note every job that is finished; one that was finished before must be as it was."""
        for entry in read_manifest(self.output_dir)["jobs"]:
            if entry["state"] == "FINISHED":
                now = fingerprint(sweep_folder(self.output_dir) / entry["dir"])
                if self._finished.setdefault(entry["dir"], now) != now:
                    self.touched.append(entry["dir"])


def _has_written(job: RunningJob, name: str = "status.json") -> bool:
    """Whether a file is of this session: written after its process began."""
    try:
        return (job.folder / name).stat().st_mtime >= psutil.Process(job.pid).create_time()
    except (OSError, psutil.Error):
        return False
