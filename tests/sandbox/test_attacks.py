"""What commands try that want more than they should have. None may succeed, or harm others."""

import asyncio
import json
import os
import platform
import secrets
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from handinger.sandbox import seccomp
from handinger.sandbox.folders import Folders
from handinger.sandbox.limits import Limits
from handinger.sandbox.process import Execution, Host, SandboxError
from handinger.sandbox.sandbox import Sandbox, Sandboxes

pytestmark = pytest.mark.anyio

SECRET = f"secret-{secrets.token_hex(16)}"


@pytest.fixture(scope="module", autouse=True)
def _secret_environment() -> Iterator[None]:
    """This process stands for the server: it must not be seen what it knows."""
    os.environ["HANDINGER_BOOTSTRAP_API_KEY"] = SECRET
    yield
    del os.environ["HANDINGER_BOOTSTRAP_API_KEY"]


@pytest.fixture
def treasure() -> Iterator[Path]:
    """A folder of the host's, with a secret in a file that everybody may read."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "treasure.txt").write_text(SECRET)
        yield Path(folder)


async def told(sandbox: Sandbox, command: str, *, timeout_s: float = 60) -> str:
    """All that a command says."""
    done = await sandbox.shell(command, timeout_s=timeout_s)
    return (done.stdout + done.stderr).decode(errors="replace")


def on_host(command: str) -> bool:
    """Whether a process with this command line runs anywhere on the host."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, check=True, text=True)
    return command in listed.stdout.splitlines()


async def until_gone(command: str) -> None:
    async with asyncio.timeout(20):
        while on_host(command):  # noqa: ASYNC110 # Nobody tells of its end.
            await asyncio.sleep(0.05)


# Reading


async def test_nothing_of_the_server_can_be_read(sandbox: Sandbox, treasure: Path):
    said = await told(
        sandbox,
        "env; cat /proc/*/environ /proc/*/cmdline /proc/*/task/*/environ | tr '\\0' '\\n';"
        f" cat {treasure}/treasure.txt ../../../..{treasure}/treasure.txt;"
        f" cat /proc/1/root{treasure}/treasure.txt /proc/self/root{treasure}/treasure.txt;"
        " find / -name 'treasure*' -exec echo F''OUND {} + 2>/dev/null",
    )
    assert SECRET not in said
    assert "FOUND" not in said


async def test_of_the_host_only_what_programs_need_is_visible(sandbox: Sandbox):
    said = await told(sandbox, "ls -A /; echo; ls -A /etc; echo; ls -A /run /var /tmp /home /root")
    roots, etc, _ = said.split("\n\n", 2)
    assert set(roots.split()) <= {
        *("bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "run", "sbin", "tmp"),
        *("usr", "var", "workspace"),
    }
    assert not {"shadow", "hostname", "resolv.conf", "machine-id", "ssh", "fstab"} & set(
        etc.split()
    )
    assert "No such file" in await told(sandbox, "ls /home")
    assert "No such file" in await told(sandbox, "ls /sys")


async def test_other_users_of_the_host_are_not_named(sandbox: Sandbox):
    assert (await told(sandbox, "cut -d: -f1 /etc/passwd")).split() == ["worker", "nobody"]


async def test_a_data_directory_within_a_visible_folder_is_hidden(
    folders: Folders, host: Host, limits: Limits, treasure: Path
):
    data_dir = treasure / "data"
    data_dir.mkdir()
    (data_dir / "postgres.conf").write_text(SECRET)
    view = replace(host.view, extra=(treasure,), hidden=(data_dir,))
    sandboxes = Sandboxes(folders, replace(host, view=view), limits)
    sandbox = sandboxes.create()
    try:
        assert SECRET in await told(sandbox, f"cat {treasure}/treasure.txt")
        assert SECRET not in await told(sandbox, f"ls {data_dir}; cat {data_dir}/postgres.conf")
        assert "Read-only" in await told(sandbox, f"touch {data_dir}/x {treasure}/x")
    finally:
        await sandboxes.close_all()


async def test_another_workers_files_cannot_be_reached(sandboxes: Sandboxes):
    mine, other = sandboxes.create(), sandboxes.create()
    await other.shell(f"echo {SECRET} > diary.txt; sleep 1000 &")
    said = await told(
        mine,
        f"cat {other.workspace}/diary.txt ../../{other.name}/{other.workspace.name}/diary.txt;"
        f" find / -name diary.txt 2>/dev/null; cat /proc/*/cwd/diary.txt; ps ax || ls /proc",
    )
    assert SECRET not in said
    assert "sleep 1000" not in said


# Writing


@pytest.mark.parametrize(
    "folder", ["/", "/usr", "/usr/bin", "/etc", "/dev", "/run", "/var", "/proc", "/proc/sys/kernel"]
)
async def test_the_system_is_read_only(sandbox: Sandbox, folder: str):
    done = await sandbox.shell(f"touch {folder}/written || mkdir {folder}/written")
    assert done.exit_code != 0


async def test_kernel_settings_cannot_be_changed(sandbox: Sandbox):
    said = await told(
        sandbox,
        "for f in kernel/core_pattern vm/drop_caches kernel/hostname fs/file-max; do"
        " cat /proc/sys/$f > /tmp/v; cat /tmp/v > /proc/sys/$f && echo BROKEN $f; done;"
        " : > /proc/sysrq-trigger && echo BROKEN; hostname other && echo BROKEN",
    )
    assert "BROKEN" not in said


async def test_commands_never_run_as_root(sandbox: Sandbox, host: Host):
    """To the kernel root owns its settings in /proc, in every namespace."""
    assert (host.uid or os.geteuid()) != 0
    await sandbox.shell("touch made")
    assert (sandbox.workspace / "made").stat().st_uid == (host.uid or os.geteuid())


async def test_device_nodes_and_setuid_programs_give_nothing(sandbox: Sandbox):
    said = await told(
        sandbox,
        "mknod disk b 254 0 && echo BROKEN; mknod mem c 1 1 && echo BROKEN;"
        " cp /usr/bin/id own-id; chmod 6755 own-id; ./own-id -u; su -c id root </dev/null;"
        " ls /dev/vda /dev/sda /dev/mem /dev/kmsg /dev/kvm /dev/fuse && echo BROKEN;"
        " grep -E '^(NoNewPrivs|CapEff|CapPrm|CapBnd|Seccomp):' /proc/self/status",
    )
    assert "BROKEN" not in said
    assert "uid=0" not in said
    assert "1000\n" in said
    status = dict(line.split(":\t") for line in said.splitlines() if ":\t" in line)
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0


# System calls

TRY_CALLS = """
import ctypes, errno, json, sys
libc = ctypes.CDLL(None, use_errno=True)
answers = {}
for name, number in json.loads(sys.argv[1]).items():
    ctypes.set_errno(0)
    answer = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(0)] * 6)
    answers[name] = errno.errorcode.get(ctypes.get_errno(), answer) if answer == -1 else answer
print(json.dumps(answers))
"""


@pytest.mark.skipif(seccomp.program() is None, reason="the filter does not know this machine")
async def test_denied_system_calls_are_refused(sandbox: Sandbox):
    column = 0 if platform.machine() == "x86_64" else 1
    calls = {name: numbers[column] for name, numbers in seccomp.DENIED.items()}
    calls = {name: number for name, number in calls.items() if number is not None}
    done = await sandbox.execute(["python3", "-c", TRY_CALLS, json.dumps(calls)])
    answers = json.loads(done.stdout)
    assert {name: answer for name, answer in answers.items() if answer != "EPERM"} == {}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86-64")
async def test_the_numbers_of_denied_calls_are_this_machines(sandbox: Sandbox):
    """`getpid` and other allowed calls work, so the filter's numbers are not shifted."""
    done = await sandbox.execute(["python3", "-c", TRY_CALLS, json.dumps({"getuid": 102})])
    assert json.loads(done.stdout) == {"getuid": 1000}


@pytest.mark.parametrize(
    ("attempt", "refusal"),
    [
        ("socket.socket(40, 1)", 97),  # vsock: the host of a virtual machine
        ("socket.socket(38, 5)", 97),  # the kernel's cryptography
        ("socket.socket(17, 3)", 97),  # raw packets
        ("fcntl.ioctl(0, 0x5412, b'x')", 1),  # TIOCSTI
        ("libc(56, 0x10000000 | 17)", 1),  # clone with CLONE_NEWUSER
        ("libc(435, 0, 0)", 38),  # clone3
        ("libc(0x40000000 | 39)", 38),  # getpid in the numbers of x32
    ],
)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86-64")
async def test_dangerous_arguments_are_refused(sandbox: Sandbox, attempt: str, refusal: int):
    program = (
        "import ctypes, fcntl, os, socket\n"
        "def libc(*numbers):\n"
        "    call = ctypes.CDLL(None, use_errno=True).syscall\n"
        "    if call(*[ctypes.c_long(n) for n in numbers], *[ctypes.c_long(0)] * 4) == -1:\n"
        "        raise OSError(ctypes.get_errno(), 'refused')\n"
        f"try: {attempt}\n"
        "except OSError as error: print(error.errno)\n"
        "else: print('BROKEN')"
    )
    done = await sandbox.execute(["python3", "-c", program])
    assert done.stdout.decode().split() == [str(refusal)], done.stderr.decode()


async def test_no_further_namespaces_can_be_made(sandbox: Sandbox):
    said = await told(
        sandbox,
        "for f in -U -n -m -p -i -u -C; do unshare $f true 2>/dev/null && echo BROKEN $f; done;"
        " bwrap --unshare-user --bind / / true 2>/dev/null && echo BROKEN bwrap;"
        " nsenter -t 1 -m true 2>/dev/null && echo BROKEN nsenter",
    )
    assert "BROKEN" not in said


# Reaching out


async def test_the_network_and_sockets_of_the_host_are_out_of_reach(
    sandbox: Sandbox, treasure: Path
):
    abstract = f"\0handinger-{secrets.token_hex(8)}"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unnamed,
        socket.socket(socket.AF_UNIX) as named,
    ):
        unnamed.bind(abstract)
        unnamed.listen()
        named.bind(str(treasure / "postgres.sock"))
        (treasure / "postgres.sock").chmod(0o777)
        named.listen()
        program = f"""
import socket
for family, address in (
    (socket.AF_INET, ("127.0.0.1", {tcp.getsockname()[1]})),
    (socket.AF_UNIX, {abstract!r}),
    (socket.AF_UNIX, {str(treasure / "postgres.sock")!r}),
    (socket.AF_INET, ("1.1.1.1", 53)),
    (socket.AF_INET, ("169.254.169.254", 80)),
):
    with socket.socket(family) as s:
        s.settimeout(2)
        try: s.connect(address)
        except OSError as error: print("no:", error)
        else: print("BROKEN", address)
"""
        said = (await sandbox.execute(["python3", "-c", program])).stdout.decode()
    assert said.count("no:") == 5, said
    assert "BROKEN" not in said
    interfaces = await told(sandbox, "ls /sys/class/net 2>/dev/null; cut -d: -f1 /proc/net/dev")
    assert [name.strip() for name in interfaces.splitlines()[2:]] == ["lo"]


async def test_signals_reach_nobody_outside_and_not_the_first_process(sandbox: Sandbox):
    with subprocess.Popen(["sleep", "1000"]) as outside:  # noqa: ASYNC220 # It takes no time.
        said = await told(sandbox, f"kill -9 {outside.pid} {os.getpid()}; echo alive")
        assert "alive" in said
        every = "for n in $(seq 64); do kill -$n 1 2>/dev/null; done; echo alive; sleep 0.5"
        assert await told(sandbox, every) == "alive\n"
        killed = await sandbox.shell("sleep 1000 & kill -9 -1; wait $!; echo $?")
        assert killed.stdout.split()[-1:] == [b"137"]
        assert (await sandbox.shell("echo still")).stdout == b"still\n"
        survived = outside.poll() is None
        outside.kill()
    assert survived


async def test_the_first_process_cannot_be_looked_into(sandbox: Sandbox):
    said = await told(
        sandbox,
        "for f in mem maps environ; do head -c 1 /proc/1/$f 2>/dev/null && echo BROKEN $f; done;"
        " ls /proc/1/fd 2>/dev/null && echo BROKEN fd; ls /proc/self/fd",
    )
    assert "BROKEN" not in said
    # Nothing is inherited: what is open as 3 is the list itself.
    assert said.split() == ["0", "1", "2", "3"]


async def test_there_is_no_terminal_to_type_into(sandbox: Sandbox):
    assert "BROKEN" not in await told(sandbox, ": < /dev/tty && echo BROKEN; tty")


# Taking too much


async def test_a_fork_bomb_ends_alone(held: Sandbox):
    done = await held.shell("bomb() { bomb | bomb & }; bomb; sleep 1000", timeout_s=3)
    assert done.stopped in ("processes", "timeout")
    # What is left of it keeps its share, and no more; a stop of everything clears it away.
    held.stop("processes")
    async with asyncio.timeout(30):
        while True:
            after = await held.shell("echo after")
            if after.stdout == b"after\n":
                break


async def test_a_memory_bomb_ends_alone(held: Sandbox):
    done = await held.execute(["python3", "-c", "x = []\nwhile True: x.append(bytearray(1 << 20))"])
    assert done.exit_code != 0
    assert (await held.shell("echo after")).stdout == b"after\n"


# Written to, as memory that is only asked for is not there yet.
HOG = "import time\nx = b'x' * (60 << 20)\ntime.sleep(3)\nprint('whole')"
# Shared with nobody, but the kernel calls it shared memory.
SHARED_HOG = (
    "import mmap, time\nx = mmap.mmap(-1, 1 << 30)\n"
    "for place in range(0, len(x), 4096):\n    x[place] = 1\n"
    "    if place % (1 << 20) == 0: time.sleep(0.002)\n"
    "time.sleep(1000)"
)
# Memory that is left to no process.
DETACHED_HOG = (
    "import ctypes, time\nlibc = ctypes.CDLL(None)\nlibc.shmat.restype = ctypes.c_void_p\n"
    "for _ in range(64):\n    part = libc.shmget(0, ctypes.c_size_t(16 << 20), 0o1600)\n"
    "    place = ctypes.c_void_p(libc.shmat(part, None, 0))\n"
    "    ctypes.memset(place, 1, 16 << 20)\n    libc.shmdt(place)\n    time.sleep(0.02)\n"
    "time.sleep(1000)"
)

# Given back by the program, and kept by the kernel for as long as one page is mapped.
GIVEN_BACK_HOG = (
    "import mmap, time\nparts, zero = [], open('/dev/zero', 'r+b', buffering=0)\n"
    "for _ in range(64):\n    part = mmap.mmap(-1, 16 << 20)\n"
    "    part[:] = bytes(len(part))\n    part.madvise(mmap.MADV_DONTNEED)\n"
    "    parts.append(part)\n    time.sleep(0.02)\n"
    "time.sleep(1000)"
)
ZERO_HOG = GIVEN_BACK_HOG.replace("mmap(-1,", "mmap(zero.fileno(),")
# Of each page read nothing is there but its place in a table of pages.
TABLES_HOG = (
    "import ctypes, time\nlibc = ctypes.CDLL(None)\nlibc.mmap.restype = ctypes.c_void_p\n"
    "size, step = 512 << 30, 2 << 20\n"
    "place = libc.mmap(None, ctypes.c_size_t(size), 1, 0x4022, -1, ctypes.c_long(0))\n"
    "for at in range(place, place + size, step):\n    ctypes.c_char.from_address(at).value\n"
    "    if (at - place) // step % 1024 == 0: time.sleep(0.005)\n"
    "time.sleep(1000)"
)


@pytest.mark.parametrize(
    ("hog", "count"),
    [
        *((HOG, 6), (SHARED_HOG, 1), (DETACHED_HOG, 1)),
        *((GIVEN_BACK_HOG, 1), (ZERO_HOG, 1), (TABLES_HOG, 1)),
    ],
    ids=["many", "shared", "detached", "given back", "given back of zeros", "tables"],
)
async def test_memory_has_its_limit_however_it_is_taken(held: Sandbox, hog: str, count: int):
    (held.workspace / "hog.py").write_text(hog)
    before = memory_used()
    command = f"for i in $(seq {count}); do python3 hog.py & done; wait"
    running = asyncio.create_task(held.shell(command, timeout_s=20))
    most = 0
    while not running.done():
        most = max(most, memory_used() - before)
        await asyncio.sleep(0.01)
    done = await running
    # One that cannot have what it wants may end by itself, which is as good.
    assert done.stopped == "memory" or done.exit_code != 0 or done.stderr
    assert done.stopped != "timeout"
    assert done.stdout.count(b"whole") < count
    if count == 1:
        assert most < 900 * 1024 * 1024  # of the 1 GiB that it wanted, beside what others do
    assert (await held.shell("echo after")).stdout == b"after\n"


# The same, by one that ends at once.
LEAVE = DETACHED_HOG.replace("range(64)", "range(2)").replace("time.sleep(1000)", "")
LEFT = "print(sum(int(line.split()[14]) for line in list(open('/proc/sysvipc/shm'))[1:]))"


async def test_memory_that_short_commands_leave_to_nobody_has_its_limit(held: Sandbox):
    for _ in range(10):
        await held.execute(["python3", "-c", LEAVE])
    left = await held.execute(["python3", "-c", LEFT])
    assert int(left.stdout) <= 192 * 1024 * 1024


def memory_used() -> int:
    """Of the whole host: what belongs to processes, or to nobody, and not to files."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    counted = ("AnonPages:", "Shmem:", "PageTables:")
    return sum(int(line[1]) * 1024 for line in lines if line[0] in counted)


@pytest.mark.skipif(seccomp.program() is None, reason="the filter does not know this machine")
async def test_without_groups_there_is_no_memory_that_cannot_be_counted(
    held: Sandbox, request: pytest.FixtureRequest
):
    done = await held.execute(["python3", "-c", "import os; os.memfd_create('x')"])
    refused = b"Operation not permitted" in done.stderr
    assert refused is ("without groups" in request.node.name)


async def test_zeros_can_be_read_wherever_they_come_from(held: Sandbox):
    assert await told(held, "head -c 3 /dev/zero | od -An -tx1") == " 00 00 00\n"


async def run_alone(sandboxes: Sandboxes, command: str, *, timeout_s: float) -> Execution:
    """A command in a sandbox that is closed behind it."""
    try:
        return await sandboxes.create().shell(command, timeout_s=timeout_s)
    finally:
        await sandboxes.close_all()


async def test_nothing_that_is_not_counted_runs_while_the_memory_of_the_host_is_short(
    folders: Folders, host: Host, little: Limits
):
    """Such as that of full sockets, which the kernel has for programs."""
    host = replace(host, hierarchy=None, filter=seccomp.program(counted=False))
    limits = replace(little, memory_reserve_bytes=1 << 60)
    done = await run_alone(Sandboxes(folders, host, limits), "sleep 1000", timeout_s=30)
    assert done.stopped == "memory_reserve"


async def test_output_without_end_is_cut_off(small: Sandbox):
    done = await small.shell("yes & yes >&2")
    assert done.stopped == "output"
    assert len(done.stdout) + len(done.stderr) <= 256 * 1024


@pytest.mark.parametrize(
    "command",
    ["dd if=/dev/zero of=huge bs=1M count=10240 status=none", "truncate -s 10G huge"],
)
async def test_a_file_of_10_gb_is_not_made(small: Sandbox, command: str):
    done = await small.shell(command)
    assert done.exit_code != 0
    assert done.stopped == "file"
    assert (small.workspace / "huge").stat().st_size <= 4 * 1024 * 1024


@pytest.mark.parametrize(
    ("command", "stopped"),
    [("while :; do :; done", "cpu"), ("trap '' XCPU; while :; do :; done", None)],
    ids=["plain", "deaf"],
)
async def test_a_process_that_only_computes_is_stopped(
    folders: Folders, host: Host, little: Limits, command: str, stopped: str | None
):
    limits = replace(little, cpu_s=1)
    done = await run_alone(Sandboxes(folders, host, limits), command, timeout_s=120)
    assert done.stopped == stopped
    assert done.exit_code == 128 + (signal.SIGXCPU if stopped else signal.SIGKILL)


@pytest.mark.parametrize("folder", [".", "/tmp", "/var/tmp"])
async def test_a_full_disk_stops_everything(small: Sandbox, folder: str):
    fill = f"for i in $(seq 1000); do head -c 3000000 /dev/zero > {folder}/f$i; sleep 0.02; done"
    done = await small.shell(f"{fill}; sleep 1000", timeout_s=60)
    assert done.stopped == "disk"
    assert (await small.shell(f"rm {folder}/f*; echo after")).stdout == b"after\n"


async def test_what_makes_room_on_a_full_disk_has_its_time_and_what_fills_it_has_not(
    small: Sandbox,
):
    fill = "for i in $(seq 1000); do head -c 3000000 /dev/zero > f$i; sleep 0.02; done; sleep 1000"
    assert (await small.shell(fill, timeout_s=60)).stopped == "disk"
    # Several looks long, and what is written meanwhile has had its room made before.
    slowly = "sleep 1; rm f1; sleep 1; echo after; sleep 1"
    done = await small.shell(slowly, timeout_s=60)
    assert (done.stopped, done.stdout) == (None, b"after\n")
    more = "head -c 6000000 /dev/zero > more; sleep 1000"
    assert (await small.shell(more, timeout_s=60)).stopped == "disk"
    assert (await small.shell("rm f* more; sleep 1; echo after")).stdout == b"after\n"
    assert (await small.shell(fill, timeout_s=60)).stopped == "disk"


# Longer than any path may be.
DEEP = "import os, time\nfor _ in range(90):\n    os.mkdir('d' * 50)\n    os.chdir('d' * 50)\n"
LOCKED = "import os, time\nos.mkdir('locked')\nos.chdir('locked')\nos.chmod('.', 0o300)\n"


@pytest.mark.parametrize("place", [DEEP, LOCKED], ids=["deep", "locked"])
@pytest.mark.parametrize(
    "fill",
    [
        "for i in range(1000):\n    open(f'f{i}', 'wb').write(bytes(3_000_000))\n"
        "    time.sleep(0.02)",
        "for i in range(4000): open(f'f{i}', 'w').close()",
    ],
    ids=["large", "many"],
)
async def test_no_place_hides_from_the_limit_of_the_disk(small: Sandbox, place: str, fill: str):
    program = f"{place}{fill}\ntime.sleep(1000)"
    done = await small.execute(["python3", "-c", program], timeout_s=30)
    assert done.stopped == "disk"


async def test_removed_files_that_are_still_open_count(small: Sandbox):
    program = (
        "import os, time\nheld = []\nfor i in range(300):\n"
        "    held.append(os.open('f', os.O_WRONLY | os.O_CREAT))\n    os.unlink('f')\n"
        "    os.write(held[-1], bytes(3_000_000))\n    time.sleep(0.05)\ntime.sleep(1000)"
    )
    done = await small.execute(["python3", "-c", program], timeout_s=60)
    assert done.stopped == "disk"
    assert (await small.shell("echo after")).stdout == b"after\n"


async def test_nothing_runs_while_the_disk_of_the_host_is_full(
    folders: Folders, host: Host, little: Limits
):
    limits = replace(little, disk_reserve_bytes=1 << 60)
    done = await run_alone(Sandboxes(folders, host, limits), "sleep 1000", timeout_s=30)
    assert done.stopped == "disk_reserve"


async def test_too_many_files_stop_everything(small: Sandbox):
    fill = "import itertools\nfor i in itertools.count(): open(f'f{i}', 'w').close()"
    done = await small.execute(["python3", "-c", fill], timeout_s=60)
    assert done.stopped == "disk"


async def test_shared_memory_is_limited(small: Sandbox):
    done = await small.shell("cat /dev/zero > /dev/shm/x", timeout_s=60)
    assert done.exit_code != 0
    await small.shell("rm -f /dev/shm/x")


async def test_limits_cannot_be_raised(small: Sandbox):
    said = await told(
        small,
        "ulimit -f unlimited && echo BROKEN; ulimit -u 100000 && echo BROKEN;"
        " ulimit -d unlimited && echo BROKEN; ulimit -t unlimited && echo BROKEN;"
        " renice -n 0 $$ && echo BROKEN; nice >&2",
    )
    assert "BROKEN" not in said
    # Further behind than the server itself, which may be behind others already.
    assert int(said.split()[-1]) == min(os.nice(0) + 15, 19)


# Staying


async def test_everything_ends_with_the_sandbox(sandboxes: Sandboxes):
    sandbox = sandboxes.create()
    naps = [f"sleep 99{n}.{os.getpid()}" for n in range(4)]
    await sandbox.shell(
        f"{naps[0]} & setsid {naps[1]} & (setsid sh -c '{naps[2]} &' &);"
        f" nohup {naps[3]} >/dev/null 2>&1 & disown -a; sleep 0.1"
    )
    assert all(map(on_host, naps))
    await sandboxes.close(sandbox)
    for nap in naps:
        await until_gone(nap)


async def test_a_timeout_ends_the_foreground_and_spares_the_background(sandbox: Sandbox):
    front, back = f"sleep 981.{os.getpid()}", f"sleep 982.{os.getpid()}"
    done = await sandbox.shell(f"setsid {back} & {front} | {front}", timeout_s=1)
    assert done.stopped == "timeout"
    await until_gone(front)
    assert on_host(back)


async def test_nothing_of_a_closed_sandbox_is_left_on_the_disk(sandboxes: Sandboxes):
    sandbox = sandboxes.create()
    deep = (
        "import os\n"
        "for _ in range(1500):\n"
        "    os.mkdir('d' * 50); os.chdir('d' * 50)\n"
        "open('deep', 'w')\n"
    )
    done = await sandbox.execute(["python3", "-c", deep])
    assert done.exit_code == 0, done.stderr.decode()
    await sandbox.shell("mkdir locked; touch locked/x; chmod 000 locked; chattr +i locked")
    folder = sandbox.workspace.parent
    await sandboxes.close(sandbox)
    assert not folder.exists()


async def test_the_death_of_its_processes_is_told_and_survived(sandbox: Sandbox):
    await sandbox.shell("echo kept > file")
    process = await sandbox.start()
    command = asyncio.create_task(sandbox.shell("sleep 1000"))
    await asyncio.sleep(0.2)
    await process.close()
    with pytest.raises(SandboxError):
        await command
    assert (await sandbox.shell("cat file")).stdout == b"kept\n"
