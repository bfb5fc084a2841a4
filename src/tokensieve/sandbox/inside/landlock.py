"""File access by allow-list without privilege (Linux 5.13 and later): for machines that forbid mount namespaces."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on every machine
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
# version of the interface -> all accesses it knows: 1 has thirteen, 2 adds moves, 3 truncation
_KNOWN = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}


def find_version(libc: ctypes.CDLL) -> int:
    """Version of the kernel's interface; 0 or less without one."""
    return int(libc.syscall(ctypes.c_long(_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG)))


def restrict_files(libc: ctypes.CDLL, readable: Iterable[str], writable: str) -> bool:
    """Let this process and all it will start read below `readable`, and do anything below `writable`; nothing else.

    Needs PR_SET_NO_NEW_PRIVS. Irrevocable. True when the kernel took it.
    """
    version = find_version(libc)
    if version < 1:
        return False
    everything = _KNOWN[min(version, 3)]
    handled = struct.pack("Q", everything)
    rules = libc.syscall(ctypes.c_long(_CREATE), handled, ctypes.c_size_t(len(handled)), ctypes.c_uint32(0))
    if rules < 0:
        return False
    for path, access in [*((path, _EXECUTE | _READ_FILE | _READ_DIR) for path in readable), (writable, everything)]:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        rule = struct.pack("=Qi", access & everything, fd)
        libc.syscall(ctypes.c_long(_ADD), ctypes.c_int(rules), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint32(0))
        os.close(fd)
    taken = libc.syscall(ctypes.c_long(_RESTRICT), ctypes.c_int(rules), ctypes.c_uint32(0)) == 0
    os.close(rules)
    return bool(taken)
