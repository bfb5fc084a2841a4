"""A system-call filter without a library: refuse what no test program needs and what could reach outside.

Numbers are from the kernel's tables (arch/x86/entry/syscalls/syscall_64.tbl; include/uapi/asm-generic/unistd.h for
aarch64). Calls from 424 on have one number on both.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

_SHARED = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_open": 434,
    "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "memfd_secret": 447,
}  # fmt: skip
_X86_64 = {
    "shmget": 29, "shmat": 30, "shmctl": 31, "socket": 41, "semget": 64, "msgget": 68, "ptrace": 101, "chroot": 161,
    "pivot_root": 155, "mount": 165, "umount2": 166, "mq_open": 240, "add_key": 248, "request_key": 249, "keyctl": 250,
    "unshare": 272, "perf_event_open": 298, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311,
    "kcmp": 312, "memfd_create": 319, "bpf": 321, "userfaultfd": 323,
}  # fmt: skip
_AARCH64 = {
    "pivot_root": 41, "umount2": 39, "mount": 40, "chroot": 51, "unshare": 97, "ptrace": 117, "mq_open": 180,
    "msgget": 186, "semget": 190, "shmget": 194, "shmctl": 195, "shmat": 196, "socket": 198, "add_key": 217,
    "request_key": 218, "keyctl": 219, "perf_event_open": 241, "setns": 268, "process_vm_readv": 270,
    "process_vm_writev": 271, "kcmp": 272, "memfd_create": 279, "bpf": 280, "userfaultfd": 282,
}  # fmt: skip
# Without a process namespace these would reach the parent, or leave the process group that is killed at the end.
_SIGNALS = {
    "x86_64": {
        "kill": 62,
        "tkill": 200,
        "tgkill": 234,
        "sigqueue": 129,
        "tgsigqueue": 297,
        "setpgid": 109,
        "setsid": 112,
    },
    "aarch64": {
        "kill": 129,
        "tkill": 130,
        "tgkill": 131,
        "sigqueue": 138,
        "tgsigqueue": 240,
        "setpgid": 154,
        "setsid": 157,
    },
}
# Of these only some uses do the same: limits of another process, and signals to one when a file gets ready.
_PRLIMIT64, _FCNTL = {"x86_64": 302, "aarch64": 261}, {"x86_64": 72, "aarch64": 25}
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX = 8, 10, 15
# machine -> (audit architecture, its calls, clone, clone3)
_MACHINES = {"x86_64": (0xC000003E, _X86_64, 56), "aarch64": (0xC00000B7, _AARCH64, 220)}
_CLONE3 = 435
_OLD_FORKS = {"x86_64": (57, 58), "aarch64": ()}  # fork, vfork
_THREAD = 0x00010000  # CLONE_THREAD
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET

_LOAD, _JEQ, _JGE, _JSET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _FILTER_MODE = 22, 38, 2


def build_filter(*, signals: bool, forks: bool) -> bytes | None:
    """The filter as instructions of struct sock_filter; None on a machine whose numbers are not listed.

    `signals` and `forks` let a program send signals and start processes; threads are always allowed.
    """
    known = _MACHINES.get(platform.machine())
    if known is None:
        return None
    architecture, calls, clone = known
    refused = {**_SHARED, **calls}
    if signals:
        del refused["pidfd_send_signal"], refused["pidfd_open"]
    else:
        refused |= _SIGNALS[platform.machine()]
    out = [(_LOAD, 0, 0, 4), (_JEQ, 1, 0, architecture), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    out += [(_JGE, 0, 1, 0x40000000), (_RETURN, 0, 0, _KILL)]  # the x32 twin of every call
    for number in sorted(refused.values()):
        out += [(_JEQ, 0, 1, number), (_RETURN, 0, 0, _REFUSE | errno.EPERM)]
    if not signals:
        first, second = 16, 24  # places of a call's arguments
        out += [(_JEQ, 0, 3, _PRLIMIT64[platform.machine()]), (_LOAD, 0, 0, first), (_JEQ, 1, 0, 0)]
        out += [(_RETURN, 0, 0, _REFUSE | errno.EPERM), (_LOAD, 0, 0, 0)]
        out += [(_JEQ, 0, 5, _FCNTL[platform.machine()]), (_LOAD, 0, 0, second), (_JEQ, 2, 0, _F_SETOWN)]
        out += [(_JEQ, 1, 0, _F_SETSIG), (_JEQ, 0, 1, _F_SETOWN_EX), (_RETURN, 0, 0, _REFUSE | errno.EPERM)]
        out.append((_LOAD, 0, 0, 0))
    if not forks:
        out += [(_JEQ, 0, 3, clone), (_LOAD, 0, 0, 16), (_JSET, 1, 0, _THREAD), (_RETURN, 0, 0, _REFUSE | errno.EPERM)]
        out.append((_LOAD, 0, 0, 0))
        for number in _OLD_FORKS[platform.machine()]:
            out += [(_JEQ, 0, 1, number), (_RETURN, 0, 0, _REFUSE | errno.EPERM)]
    # clone3 hides its flags in memory; "not implemented" makes the C library fall back to clone.
    out += [(_JEQ, 0, 1, _CLONE3), (_RETURN, 0, 0, _REFUSE | errno.ENOSYS)]
    out += [
        (_JEQ, 0, 3, clone),
        (_LOAD, 0, 0, 16),
        (_JSET, 0, 1, _NEW_NAMESPACES),
        (_RETURN, 0, 0, _REFUSE | errno.EPERM),
    ]
    out.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *line) for line in out)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_char_p))


def install_filter(libc: ctypes.CDLL, lines: bytes) -> bool:
    """Put the filter on this process and all it will start; irrevocable. True when the kernel took it."""
    program = _Program(len(lines) // 8, lines)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(_PR_SET_SECCOMP, _FILTER_MODE, ctypes.byref(program), 0, 0) == 0)
