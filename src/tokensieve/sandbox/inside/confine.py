"""What the kernel lets us put around a program: namespaces, a root of its own, another user, limits, a call filter.

Each step is tried and reported; none is required, because containers and hardened kernels forbid different ones.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .landlock import find_version, restrict_files
from .root import SCRATCH, build_root, library_folders, renew_scratch
from .seccomp import build_filter, install_filter

_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
_CAPABILITY_VERSION = 0x20080522
_FIRST_UID, _NUM_UIDS = 60_100, 4_000


@dataclass
class Confinement:
    """What is in force in this worker.

    `own_root` and `own_processes`: mount and process namespaces. `landlock`: an allow-list of files in place of the
    first. `call_filter` and `fork_filter` are system-call filters; the second, for candidates, forbids new processes
    where nothing else bounds them. `uid` is set when programs run as another user than ours.
    """

    scratch: str
    own_root: bool = False
    own_processes: bool = False
    landlock: bool = False
    uid: int | None = None
    call_filter: bytes | None = None
    fork_filter: bytes | None = None

    def report(self) -> dict[str, bool]:
        """The fields of `Containment`."""
        filtered = self.call_filter is not None
        return {
            "namespaces": self.own_processes,
            "call_filter": filtered,
            "other_user": self.uid is not None,
            "files": self.own_root or self.landlock,
            "network": self.own_processes or filtered,
            "processes": self.own_processes or filtered,
        }


def _load_libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def confine_worker(scratch: str) -> Confinement:
    """Confine this process as far as the kernel allows, and return in the process that shall serve.

    With a process namespace that is a child: process 1 of the namespace, whom no signal from inside can kill. The
    caller's process stays behind only to wait for it.
    """
    found = Confinement(scratch)
    _write("/proc/self/oom_score_adj", "1000")  # when memory runs out, end this first
    if not sys.platform.startswith("linux"):
        return found
    libc = _load_libc()
    if _enter_namespaces(libc):
        found.own_processes = True
        _become_init(libc)
        with contextlib.suppress(OSError):  # reported; the working folder then stays `scratch`
            build_root(libc, scratch)
            found.own_root, found.scratch = True, SCRATCH
    libc.prctl(_PR_SET_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # same-user processes may not trace us or read our memory
    call_filter = build_filter(signals=found.own_processes, forks=True)
    if call_filter is not None and _succeeds(lambda: install_filter(libc, call_filter)):
        found.call_filter = call_filter
    if os.getuid() == 0 and _succeeds(_become_other_user):
        # Drawn for each worker: the kernel counts processes by user.
        found.uid = _FIRST_UID + int.from_bytes(os.urandom(2), "big") % _NUM_UIDS
    # The kernel counts processes by user, except root's: where that bounds nobody, no new process is allowed.
    if found.call_filter is not None and not (found.own_processes and (found.uid is not None or os.getuid() != 0)):
        found.fork_filter = build_filter(signals=found.own_processes, forks=False)
    found.landlock = not found.own_root and find_version(libc) > 0 and _succeeds(lambda: _restrict(libc, scratch))
    return found


def _succeeds(attempt: Callable[[], bool]) -> bool:
    """Try something irrevocable in a child."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if attempt() else 1)
        except BaseException:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _become_other_user() -> bool:
    """Change the user; false when that user could not read the standard library."""
    os.setgroups([])
    os.setresuid(_FIRST_UID, _FIRST_UID, _FIRST_UID)
    return bool(os.listdir(Path(os.__file__).parent))


def _restrict(libc: ctypes.CDLL, scratch: str) -> bool:
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return restrict_files(libc, library_folders(), scratch)


def _enter_namespaces(libc: ctypes.CDLL) -> bool:
    """Leave the host's mounts, network, IPC and processes; as an ordinary user, inside a user namespace of our own."""
    spaces = _NEWNS | _NEWIPC | _NEWPID | _NEWNET
    uid, gid = os.getuid(), os.getgid()
    if uid == 0 and libc.unshare(spaces) == 0:
        return True
    if libc.unshare(_NEWUSER | spaces) != 0:
        return False
    _write("/proc/self/setgroups", "deny")
    return _write("/proc/self/uid_map", f"{uid} {uid} 1") and _write("/proc/self/gid_map", f"{gid} {gid} 1")


def _write(path: str, text: str) -> bool:
    try:
        Path(path).write_text(text)
    except OSError:
        return False
    return True


def _become_init(libc: ctypes.CDLL) -> None:
    """Fork into the process namespace; only the child returns, and it dies with its parent."""
    pid = os.fork()
    if pid == 0:
        die_with_parent()
        return
    for fd in (0, 1):  # else the far ends would never see the child's death
        os.close(fd)
    _, status = os.waitpid(pid, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def clear_scratch(found: Confinement) -> None:
    """Empty the working folder between two programs."""
    if found.own_root:
        renew_scratch(_load_libc())
        return
    for folder, folders, files in os.walk(found.scratch, topdown=False):
        for name in [*files, *folders]:
            path = Path(folder, name)
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()


def confine_program(
    found: Confinement, *, cpu_seconds: int, memory_bytes: int, file_bytes: int, processes: int
) -> None:
    """Limit this process and everything it will start; irrevocable."""
    limits = {
        resource.RLIMIT_CPU: cpu_seconds, resource.RLIMIT_AS: memory_bytes, resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NOFILE: 64, resource.RLIMIT_CORE: 0,
    }  # fmt: skip
    if sys.platform.startswith("linux"):
        limits |= {resource.RLIMIT_MSGQUEUE: 0, resource.RLIMIT_MEMLOCK: 0}
        if found.own_processes or found.uid is not None:  # else it counts all processes of the user
            limits[resource.RLIMIT_NPROC] = processes
    for kind, value in limits.items():
        ceiling = resource.getrlimit(kind)[1]
        bound = value if ceiling == resource.RLIM_INFINITY else min(value, ceiling)
        resource.setrlimit(kind, (bound, bound))
    if not sys.platform.startswith("linux"):
        return
    libc = _load_libc()
    if found.uid is not None:
        os.setgroups([])
        os.setresgid(found.uid, found.uid, found.uid)
        os.setresuid(found.uid, found.uid, found.uid)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    libc.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))  # no privilege, even in our namespace
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    die_with_parent()  # not earlier: another user id takes it back
    if found.landlock:
        _restrict(libc, found.scratch)
    if found.call_filter is not None:
        install_filter(libc, found.call_filter)


def die_with_parent() -> None:
    """End this process, by force, when the process that forked it ends; not inherited by what it forks itself."""
    if sys.platform.startswith("linux"):
        _load_libc().prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)


def forbid_forks(found: Confinement) -> None:
    """In a candidate whose processes nothing else counts and ends: no new ones."""
    if found.fork_filter is not None:
        install_filter(_load_libc(), found.fork_filter)
