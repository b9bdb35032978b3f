"""The system calls that nothing in a sandbox may make, as a filter for the kernel (seccomp-bpf).

Namespaces do the separating. The filter takes away the parts of the kernel that untrusted programs
have no business with, and those that namespaces do not cover: keyrings, other programs' memory,
further namespaces, sockets into the machine's host.
"""

import platform
import struct
from collections.abc import Mapping

# <linux/audit.h>; a filter must not judge the calls of another architecture by this one's numbers.
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# Numbers of x86-64 and of arm64; None where the call does not exist.
DENIED: Mapping[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "mbind": (237, 235),
    "migrate_pages": (256, 238),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "uselib": (134, None),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
# Memory that belongs to no process cannot be counted; only control groups hold it. So it is with a
# shared mapping without a file (`mmap`): a program can give its pages back, and the kernel keeps
# them for as long as any process has one of them mapped.
UNCOUNTED: Mapping[str, tuple[int, int]] = {"memfd_create": (319, 279), "memfd_secret": (447, 447)}
_CLONE, _CLONE3, _IOCTL, _SOCKET = (56, 220), (435, 435), (16, 29), (41, 198)
_MMAP = (9, 222)
_MAP_SHARED, _MAP_ANONYMOUS = 0x01, 0x20

# Every CLONE_NEW... flag that `clone` knows.
_CLONE_NAMESPACES = 0x7E020000
# They put keystrokes into a terminal.
_DENIED_IOCTLS = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
# Others are not separated by network namespaces (vsock reaches a virtual machine's host).
_ALLOWED_FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK
_X32_BIT = 0x40000000

_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97
_ALLOW, _KILL = 0x7FFF0000, 0x80000000

_LOAD, _JUMP_EQUAL, _JUMP_FROM, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
# Offsets in `struct seccomp_data`.
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND, _FOURTH = 0, 4, 16, 24, 40


def program(*, counted: bool = True) -> bytes | None:
    """The filter for this machine; None where its numbers are not known.

    `counted`: the kernel counts the memory of a sandbox, so it may have some without an owner.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        return None
    column = 0 if machine == "x86_64" else 1
    steps = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_JUMP_EQUAL, _ARCHITECTURES[machine], 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        steps += [_step(_JUMP_FROM, _X32_BIT, 0, 1), _step(_RETURN, _errno(_ENOSYS))]
    for numbers in (*DENIED.values(), *(() if counted else UNCOUNTED.values())):
        number = numbers[column]
        if number is not None:
            steps += _unless_equal(number, _errno(_EPERM))
    # Its flags are behind a pointer, which a filter cannot follow; libraries fall back to `clone`.
    steps += _unless_equal(_CLONE3[column], _errno(_ENOSYS))
    steps += _on(
        _CLONE[column],
        _step(_LOAD, _FIRST),
        _step(_JUMP_BITS, _CLONE_NAMESPACES, 0, 1),
        _step(_RETURN, _errno(_EPERM)),
    )
    if not counted:
        steps += _on(
            _MMAP[column],
            _step(_LOAD, _FOURTH),
            _step(_JUMP_BITS, _MAP_ANONYMOUS, 0, 2),
            _step(_JUMP_BITS, _MAP_SHARED, 0, 1),
            _step(_RETURN, _errno(_EPERM)),
        )
    denied = [step for command in _DENIED_IOCTLS for step in _unless_equal(command, _errno(_EPERM))]
    steps += _on(_IOCTL[column], _step(_LOAD, _SECOND), *denied)
    allowed = [step for family in _ALLOWED_FAMILIES for step in _unless_equal(family, _ALLOW)]
    refused = _step(_RETURN, _errno(_EAFNOSUPPORT))
    steps += _on(_SOCKET[column], _step(_LOAD, _FIRST), *allowed, refused)
    steps.append(_step(_RETURN, _ALLOW))
    return b"".join(steps)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _unless_equal(value: int, verdict: int) -> list[bytes]:
    """Return the verdict if what is loaded equals the value, else go on."""
    return [_step(_JUMP_EQUAL, value, 0, 1), _step(_RETURN, verdict)]


def _on(number: int, *steps: bytes) -> list[bytes]:
    """Steps for one call only; it is allowed if they come to no verdict."""
    body = [*steps, _step(_RETURN, _ALLOW)]
    return [_step(_JUMP_EQUAL, number, 0, len(body)), *body]


def _errno(number: int) -> int:
    return 0x00050000 | number
