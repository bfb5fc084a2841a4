"""One worker process, as its parent sees it."""

from __future__ import annotations

import json
import select
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokensieve.errors import SandboxError
from tokensieve.sandbox.inside.wire import read_frame, write_frame
from tokensieve.sandbox.records import Outcome, Program, Query, Verdict

_START_SECONDS: Final = 60.0
_BOOT: Final = """\
import sys
sys.path.insert(0, sys.argv[1])
from inside import worker
sys.path.remove(sys.argv[1])
worker.main(sys.argv[2])
"""


@dataclass(frozen=True, slots=True)
class Containment:
    """Which walls stand around a program, beside the resource limits and the kill at the end.

    files: reads nothing but the standard library and system libraries, writes nothing but a scratch folder.
    network: no connection. processes: no signal leaves, no process is visible outside or survives.
    How: namespaces (own mount, network, IPC and process tables), call_filter (system calls that reach outside are
    refused), other_user (runs as a user that owns nothing; only where we are root).
    """

    files: bool
    network: bool
    processes: bool
    namespaces: bool
    call_filter: bool
    other_user: bool

    @property
    def missing(self) -> tuple[str, ...]:
        """Which of files, network and processes are not contained."""
        return tuple(name for name in ("files", "network", "processes") if not getattr(self, name))


class Worker:
    """One worker process and the pipe to it."""

    def __init__(self) -> None:
        self.scratch = tempfile.mkdtemp(prefix="tokensieve-sandbox-")
        Path(self.scratch).chmod(0o777)  # programs may run as another user
        inside = str(Path(__file__).parent)
        # -S -s -P: no site-packages, no working folder. The environment is ours alone; hashing is reproducible.
        command = [sys.executable, "-S", "-s", "-P", "-B", "-X", "utf8", "-c", _BOOT, inside, self.scratch]
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            shutil.rmtree(self.scratch, ignore_errors=True)
            remedy = "see whether this user may run the interpreter"
            raise SandboxError("sandbox", "python must start", received=str(error), remedy=remedy) from error
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.jobs, self.answers = self.process.stdin.fileno(), self.process.stdout.fileno()
        poll = select.poll()
        poll.register(self.answers, select.POLLIN)
        frame = read_frame(self.answers) if poll.poll(_START_SECONDS * 1000) else None
        if frame is None:
            self.close()
            raise SandboxError("sandbox", "the worker process did not start", remedy="see whether python can fork here")
        self.containment = Containment(**json.loads(frame))

    def send(self, job: Program | Query, seconds: float, memory_bytes: int) -> None:
        """Hand over one job.

        Raises:
            OSError: the worker is gone.
        """
        payload = job.payload()
        header = {
            "kind": job.kind,
            "seconds": seconds,
            "memory_bytes": memory_bytes,
            "file_bytes": 16 * 2**20,
            "processes": 16,
            "payload_bytes": len(payload),
        }
        write_frame(self.jobs, json.dumps(header).encode())
        write_frame(self.jobs, payload)

    def receive(self) -> Verdict | None:
        """Read the answer; None when the worker is gone."""
        frame = read_frame(self.answers)
        if frame is None:
            return None
        told = json.loads(frame)
        return Verdict(Outcome(told["outcome"]), told["reason"], told["seconds"])

    def close(self) -> None:
        """End the worker and all that it started."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.scratch, ignore_errors=True)
