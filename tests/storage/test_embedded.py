import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import psycopg
import pytest

from handinger.errors import DatabaseError
from handinger.storage.embedded import (
    DataDirectoryInUse,
    EmbeddedPostgres,
    EmbeddedPostgresError,
    EmbeddedPostgresUnavailable,
    ServeLock,
    account,
    cluster,
)
from handinger.storage.embedded.folder import short_name

IS_ROOT = os.geteuid() == 0
NOBODY = 65534

needs_root_on_linux = pytest.mark.skipif(
    not IS_ROOT or sys.platform != "linux", reason="needs root on Linux"
)
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

# Does one thing per line that it reads, and answers each with a line.
HOLDER = """
import sys
from pathlib import Path
from handinger.storage.embedded import EmbeddedPostgres, ServeLock

data_dir = Path(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    if line == "serve\\n":
        serving = ServeLock.acquire(data_dir)
        print("serving", flush=True)
    elif line == "join\\n":
        postgres = EmbeddedPostgres.join(data_dir)
        print(postgres.url, flush=True)
    elif line == "leave\\n":
        print(postgres.leave(), flush=True)
"""


class Holder:
    """Another process that uses the data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def send(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def does(self, command: str) -> str:
        self.send(command)
        return self.read()

    def kill(self, signal_number: int = signal.SIGKILL) -> None:
        os.killpg(self.process.pid, signal_number)
        self.process.wait(10)


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def servers_under(folder: Path) -> list[psutil.Process]:
    """The postmasters that were told to work somewhere in the folder."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            if "-D" in command and any(word.startswith(f"{folder}/") for word in command):
                found.append(process)
    return found


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_servers_under(folder: Path) -> None:
    for process in servers_under(folder):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGQUIT)
            wait_until(lambda process=process: not is_alive(process))


@contextlib.contextmanager
def working_folder() -> Generator[Path]:
    """A folder with a short path, in memory if there is room; no PostgreSQL in it outlives it."""
    shared_memory = Path("/dev/shm")
    in_memory = shared_memory.is_dir() and shutil.disk_usage(shared_memory).free > 2 * 1024**3
    parent = shared_memory if in_memory else Path("/tmp").resolve()
    folder = Path(tempfile.mkdtemp(prefix="hdg-", dir=parent))
    try:
        yield folder
    finally:
        end_servers_under(folder)
        shutil.rmtree(folder)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder to make data directories in."""
    with working_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def made_once() -> Iterator[Path]:
    """A data directory whose PostgreSQL is complete and stopped; tests borrow or copy it."""
    with working_folder() as folder:
        assert EmbeddedPostgres.join(folder / "data").leave()
        yield folder / "data"


@contextlib.contextmanager
def borrowed(made_once: Path, path: Path) -> Generator[Path]:
    """Make it be somewhere else for a while, which is much faster than a copy."""
    path.mkdir()
    (made_once / "postgres").rename(path / "postgres")
    try:
        yield path
    finally:
        end_servers_under(path)
        (path / "postgres").rename(made_once / "postgres")


@pytest.fixture
def data_dir(place, made_once) -> Iterator[Path]:
    """A data directory with a complete PostgreSQL that does not run; tests must not spoil it."""
    with borrowed(made_once, place / "data") as folder:
        yield folder


def copied(made_once: Path, path: Path) -> Path:
    """A data directory that may be spoilt."""
    shutil.copytree(made_once / "postgres", path / "postgres")
    return path


@pytest.fixture
def holders(place) -> Iterator[Callable[[Path], Holder]]:
    with contextlib.ExitStack() as stack:

        def begin(data_dir: Path) -> Holder:
            holder = Holder(data_dir)
            stack.enter_context(holder.process)
            stack.callback(holder.process.kill)
            assert holder.read() == "ready"
            return holder

        yield begin


def postmaster_of(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])


def starts_of(data_dir: Path) -> int:
    return (data_dir / "postgres.log").read_text().count("LOG:  starting PostgreSQL")


def ask(url: str, query: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]


def run_sql(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def test_a_first_join_makes_a_database_and_leaving_stops_it(place, monkeypatch):
    monkeypatch.setenv("PGPORT", "7777")  # Must reach neither PostgreSQL nor its clients.
    began_at = time.monotonic()
    postgres = EmbeddedPostgres.join(place / "deep" / "data")
    took_s = time.monotonic() - began_at
    assert ask(postgres.url, "SELECT current_database() || current_user") == "handinger" * 2
    assert postgres.is_running()
    assert (place / "deep" / "data" / "postgres").stat().st_mode & 0o777 == 0o700
    assert postgres.leave()
    assert not postgres.is_running()
    assert servers_under(place) == []
    assert sorted(path.name for path in (place / "deep" / "data").iterdir()) == [
        "postgres",
        "postgres.lock",
        "postgres.log",
        "postgres.transition.lock",
    ]
    assert took_s < 10  # About one second on an idle machine.


def test_a_later_join_finds_the_data_of_an_earlier_one(data_dir):
    postgres = EmbeddedPostgres.join(data_dir)
    run_sql(postgres.url, "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 42 AS answer")
    postgres.leave()
    postgres = EmbeddedPostgres.join(data_dir)
    assert ask(postgres.url, "SELECT answer FROM kept") == 42
    postgres.leave()


def test_settings_suit_one_small_machine_and_lose_nothing(data_dir):
    expected = {
        "listen_addresses": "",
        "unix_socket_permissions": "0700",
        "shared_buffers": "64MB",
        "max_connections": "200",
        "wal_level": "minimal",
        "max_wal_senders": "0",
        "jit": "off",
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "autovacuum": "on",
        "data_checksums": "on",
        "server_encoding": "UTF8",
        "TimeZone": "UTC",
        "log_destination": "stderr",
    }
    postgres = EmbeddedPostgres.join(data_dir)
    assert {name: ask(postgres.url, f"SHOW {name}") for name in expected} == expected
    postgres.leave()


def test_text_is_ordered_by_code_point_and_lowered_by_unicode(data_dir):
    postgres = EmbeddedPostgres.join(data_dir)
    assert ask(postgres.url, "SELECT lower('ÄÉ') || ('Z' < 'a')") == "äétrue"
    postgres.leave()


def test_the_last_one_out_stops_it(data_dir, holders):
    other = holders(data_dir)
    postgres = EmbeddedPostgres.join(data_dir)
    again = EmbeddedPostgres.join(data_dir)
    assert other.does("join") == postgres.url == again.url
    assert not postgres.leave()
    assert other.does("leave") == "False"
    assert again.is_running()
    assert again.leave()
    assert servers_under(data_dir) == []
    assert starts_of(data_dir) == 1


def test_leaving_twice_gives_nothing_back_twice(data_dir):
    postgres = EmbeddedPostgres.join(data_dir)
    staying = EmbeddedPostgres.join(data_dir)
    assert not postgres.leave()
    assert not postgres.leave()
    assert staying.is_running()
    assert staying.leave()
    assert not staying.leave()


def test_what_a_killed_process_leaves_is_adopted_and_then_stopped(data_dir, holders):
    killed = holders(data_dir)
    url = killed.does("join")
    run_sql(url, "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 42 AS answer")
    pid = postmaster_of(data_dir)
    killed.kill()
    assert killed.read() == ""  # End of file: PostgreSQL does not hold the pipe open.

    postgres = EmbeddedPostgres.join(data_dir)
    assert postmaster_of(data_dir) == pid
    assert ask(postgres.url, "SELECT answer FROM kept") == 42
    assert postgres.leave()
    assert servers_under(data_dir) == []


def test_ctrl_c_in_the_terminal_does_not_reach_it(data_dir, holders):
    interrupted = holders(data_dir)
    url = interrupted.does("join")
    pid = postmaster_of(data_dir)
    assert os.getsid(pid) != os.getsid(interrupted.process.pid)
    interrupted.process.send_signal(signal.SIGSTOP)  # So that only PostgreSQL could react.
    os.killpg(interrupted.process.pid, signal.SIGINT)
    assert ask(url, "SELECT 1") == 1
    assert postmaster_of(data_dir) == pid


def test_processes_that_join_at_once_start_it_once(place, holders):
    data_dir = place / "data"
    several = [holders(data_dir) for _ in range(4)]
    for holder in several:
        holder.send("join")
    urls = {holder.read() for holder in several}
    assert len(urls) == 1
    assert ask(urls.pop(), "SELECT 1") == 1
    assert starts_of(data_dir) == 1
    for holder in several:
        holder.send("leave")
    assert sorted(holder.read() for holder in several) == ["False", "False", "False", "True"]
    assert servers_under(place) == []


JOIN_AND_LEAVE = """
import random, sys, time
from pathlib import Path
import psycopg
from handinger.storage.embedded import EmbeddedPostgres

for _ in range(8):
    postgres = EmbeddedPostgres.join(Path(sys.argv[1]))
    with psycopg.connect(postgres.url) as connection:
        for _ in range(3):
            connection.execute("INSERT INTO visits DEFAULT VALUES")
            connection.commit()
            time.sleep(random.random() * 0.02)
    postgres.leave()
"""


def test_joining_while_another_leaves_never_finds_it_gone(data_dir):
    postgres = EmbeddedPostgres.join(data_dir)
    run_sql(postgres.url, "CREATE TABLE visits (id bigint GENERATED ALWAYS AS IDENTITY)")
    postgres.leave()
    command = [sys.executable, "-c", JOIN_AND_LEAVE, str(data_dir)]
    with contextlib.ExitStack() as stack:
        visitors = [stack.enter_context(subprocess.Popen(command)) for _ in range(3)]
        assert [visitor.wait(60) for visitor in visitors] == [0, 0, 0]
    assert servers_under(data_dir) == []
    postgres = EmbeddedPostgres.join(data_dir)
    assert ask(postgres.url, "SELECT count(*) FROM visits") == 3 * 8 * 3
    postgres.leave()


def test_it_starts_again_after_it_was_killed_with_its_data(data_dir):
    postgres = EmbeddedPostgres.join(data_dir)
    run_sql(postgres.url, "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 42 AS answer")
    assert not postgres.ensure_running()
    os.kill(postmaster_of(data_dir), signal.SIGKILL)
    wait_until(lambda: not postgres.is_running())
    assert postgres.ensure_running()
    assert ask(postgres.url, "SELECT answer FROM kept") == 42
    assert postgres.leave()


def test_of_several_that_notice_its_death_one_starts_it(data_dir):
    shares = [EmbeddedPostgres.join(data_dir) for _ in range(3)]
    os.kill(postmaster_of(data_dir), signal.SIGKILL)
    wait_until(lambda: not shares[0].is_running())
    restarted: list[bool] = []
    threads = [
        threading.Thread(target=lambda share=share: restarted.append(share.ensure_running()))
        for share in shares
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(restarted) == [False, False, True]
    assert [share.leave() for share in shares] == [False, False, True]


def test_a_share_that_was_given_back_starts_nothing(data_dir):
    postgres = EmbeddedPostgres.join(data_dir)
    postgres.leave()
    with pytest.raises(EmbeddedPostgresError, match="given back"):
        postgres.ensure_running()
    assert servers_under(data_dir) == []


@pytest.mark.parametrize(
    "noted_pid",
    [
        pytest.param(str(os.getpid()), id="the number belongs to another program now"),
        pytest.param("999999999", id="no such process"),
        pytest.param("9" * 30, id="no number of a process"),
        pytest.param("", id="the machine crashed before the file was written"),
    ],
)
def test_a_stale_pid_file_does_not_count_as_a_running_server(data_dir, noted_pid):
    folder = data_dir / "postgres"
    rest = f"{folder}\n1700000000\n5432\n{folder}\n\n  1234567  1\nready   \n"
    (folder / "postmaster.pid").write_text(f"{noted_pid}\n{rest}" if noted_pid else "")
    postgres = EmbeddedPostgres.join(data_dir)
    assert ask(postgres.url, "SELECT 1") == 1
    assert postmaster_of(data_dir) != os.getpid()
    assert postgres.leave()


def test_leaving_does_not_signal_a_program_that_the_pid_file_names_by_chance(data_dir):
    postgres = EmbeddedPostgres.join(data_dir)
    os.kill(postmaster_of(data_dir), signal.SIGKILL)
    wait_until(lambda: not postgres.is_running())
    with subprocess.Popen(["sleep", "60"]) as bystander:
        (data_dir / "postgres" / "postmaster.pid").write_text(f"{bystander.pid}\n")
        assert not postgres.leave()
        assert bystander.poll() is None
        bystander.kill()


def test_a_server_whose_socket_was_removed_is_started_again(data_dir, monkeypatch):
    monkeypatch.setattr(cluster, "_DEAF_TIMEOUT_S", 0.2)
    postgres = EmbeddedPostgres.join(data_dir)
    pid = postmaster_of(data_dir)
    (data_dir / "postgres" / ".s.PGSQL.5432").unlink()
    assert not postgres.is_running()
    assert postgres.ensure_running()
    assert postmaster_of(data_dir) != pid
    assert ask(postgres.url, "SELECT 1") == 1
    postgres.leave()


def test_a_first_start_that_was_killed_half_way_is_begun_anew(place, holders):
    data_dir = place / "data"
    killed = holders(data_dir)
    killed.send("join")
    wait_until(lambda: any(data_dir.glob("postgres.unfinished-*/base/1")))
    killed.kill()  # Its initdb goes on by itself.
    assert not (data_dir / "postgres").exists()
    postgres = EmbeddedPostgres.join(data_dir)
    assert ask(postgres.url, "SELECT 1") == 1
    assert list(data_dir.glob("postgres.unfinished-*")) == []
    postgres.leave()


def test_an_initdb_that_was_killed_leaves_nothing_behind(place, holders):
    data_dir = place / "data"
    holder = holders(data_dir)
    holder.send("join")
    wait_until(lambda: any(data_dir.glob("postgres.unfinished-*/base/1")))
    for process in psutil.Process(holder.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert holder.read() == ""
    assert not (data_dir / "postgres").exists()
    assert list(data_dir.glob("postgres.unfinished-*")) == []


def test_an_empty_folder_is_taken_and_a_database_that_is_not_ours_is_not(place):
    data_dir = place / "data"
    (data_dir / "postgres").mkdir(parents=True)
    (data_dir / "postgres" / "notes.txt").write_text("mine")
    with pytest.raises(EmbeddedPostgresError, match="is not a PostgreSQL data directory"):
        EmbeddedPostgres.join(data_dir)
    assert (data_dir / "postgres" / "notes.txt").read_text() == "mine"
    (data_dir / "postgres" / "notes.txt").unlink()
    assert EmbeddedPostgres.join(data_dir).leave()


def test_a_folder_of_another_major_version_is_left_alone(place):
    data_dir = place / "data"
    (data_dir / "postgres").mkdir(parents=True)
    (data_dir / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedPostgresError, match=r"made by PostgreSQL 17, and .* PostgreSQL 18"):
        EmbeddedPostgres.join(data_dir)
    assert servers_under(data_dir) == []


def test_when_it_does_not_start_the_error_quotes_its_log(place, made_once):
    data_dir = copied(made_once, place / "data")
    with (data_dir / "postgres" / "postgresql.conf").open("a") as configuration:
        configuration.write("shared_buffers = 'plenty'\n")
    with pytest.raises(EmbeddedPostgresError, match=r"did not start; .*plenty") as caught:
        EmbeddedPostgres.join(data_dir)
    assert isinstance(caught.value, DatabaseError)
    assert str(data_dir / "postgres.log") in str(caught.value)


def test_a_server_that_refuses_us_is_quoted_and_stopped_again(place, made_once):
    data_dir = copied(made_once, place / "data")
    (data_dir / "postgres" / "pg_hba.conf").write_text("local all all reject\n")
    with pytest.raises(EmbeddedPostgresError, match=r"cannot be used: .*pg_hba\.conf rejects"):
        EmbeddedPostgres.join(data_dir)
    assert servers_under(place) == []


@pytest.mark.skipif(shutil.which("ps") is None, reason="needs ps")
def test_without_a_proc_file_system_processes_are_recognised_as_well(data_dir, monkeypatch):
    monkeypatch.setattr(cluster, "sys", SimpleNamespace(platform="darwin"))
    (data_dir / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n")
    postgres = EmbeddedPostgres.join(data_dir)
    assert ask(postgres.url, "SELECT 1") == 1
    assert postgres.leave()
    assert servers_under(data_dir) == []


def test_a_data_directory_that_cannot_be_made_is_named(place):
    (place / "file").write_text("in the way")
    with pytest.raises(EmbeddedPostgresError, match="file/data cannot be used: Not a directory"):
        EmbeddedPostgres.join(place / "file" / "data")


FULL_DISK = """
mount -t tmpfs -o size=12m none "$1" && exec "$2" -c '
import sys
from pathlib import Path
from handinger.storage.embedded import EmbeddedPostgres, EmbeddedPostgresError
try:
    EmbeddedPostgres.join(Path(sys.argv[1]) / "data")
except EmbeddedPostgresError as error:
    print(error)
    print(sorted(path.name for path in Path(sys.argv[1], "data").glob("postgres*/")))
' "$1"
"""


@needs_root_on_linux
def test_a_full_disk_is_named_and_nothing_half_made_stays(place):
    (place / "small").mkdir()
    command = ["unshare", "--mount", "sh", "-c", FULL_DISK, "sh", place / "small", sys.executable]
    finished = subprocess.run(command, capture_output=True, text=True)
    if "mount:" in finished.stderr:
        pytest.skip("mounting is not allowed here")
    error, folders = finished.stdout.splitlines()
    assert "could not be made" in error
    assert "No space left on device" in error
    assert "unfinished" not in folders
    assert "'postgres'" not in folders


def test_the_log_begins_anew_when_it_has_grown(data_dir, monkeypatch):
    monkeypatch.setattr(cluster, "_LOG_LIMIT_BYTES", 100)
    (data_dir / "postgres.log").write_text("old " * 100)
    postgres = EmbeddedPostgres.join(data_dir)
    assert "old" not in (data_dir / "postgres.log").read_text()
    assert "old" in (data_dir / "postgres.log.1").read_text()
    postgres.leave()


def test_no_folder_on_the_way_changes_its_mode_or_owner(place):
    data_dir = place / "home" / "data"
    data_dir.mkdir(parents=True)
    (place / "home").chmod(0o700)
    data_dir.chmod(0o750)
    wheel = account.programs()
    watched = [data_dir, *data_dir.parents, wheel, *wheel.parents]

    def permissions() -> list[tuple[int, int, int]]:
        return [(s.st_mode, s.st_uid, s.st_gid) for s in map(os.stat, watched)]

    before = permissions()
    assert EmbeddedPostgres.join(data_dir).leave()
    assert permissions() == before


@needs_proc
def test_the_server_inherits_neither_our_descriptors_nor_our_environment(data_dir, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with socket.socket() as ours:
        ours.set_inheritable(True)
        serving = ServeLock.acquire(data_dir)
        postgres = EmbeddedPostgres.join(data_dir)
        process = Path(f"/proc/{postmaster_of(data_dir)}")
        opened = {int(path.name): os.readlink(path) for path in (process / "fd").iterdir()}
        ours_is = os.readlink(f"/proc/self/fd/{ours.fileno()}")
    log = str(data_dir / "postgres.log")
    assert (opened[0], opened[1], opened[2]) == ("/dev/null", log, log)
    assert [target for target in opened.values() if ".lock" in target] == []
    assert ours_is not in opened.values()
    assert b"secret" not in (process / "environ").read_bytes()
    postgres.leave()
    serving.release()


@needs_proc
def test_another_child_of_ours_does_not_keep_the_share(data_dir, holders):
    other = holders(data_dir)
    other.does("join")
    postgres = EmbeddedPostgres.join(data_dir)
    with subprocess.Popen(["sleep", "60"], close_fds=False) as child:
        assert not postgres.leave()
        assert other.does("leave") == "True"
        child.kill()


@pytest.fixture
def deep_dir(place, made_once) -> Iterator[Path]:
    """A data directory whose path is too long for a socket in it."""
    with borrowed(made_once, place / ("d" * 90)) as folder:
        yield folder


def socket_folder(url: str) -> Path:
    return Path(url.partition("host=")[2].partition("&")[0])


def test_a_path_too_long_for_a_socket_uses_a_private_folder(deep_dir, place, holders, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    postgres = EmbeddedPostgres.join(deep_dir)
    chosen = socket_folder(postgres.url)
    assert chosen.parent == place
    assert chosen.stat().st_mode & 0o777 == 0o700
    assert ask(postgres.url, "SELECT 1") == 1

    # Another process, whose environment differs, must find the same one.
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert holders(deep_dir).does("join") == postgres.url
    assert not postgres.leave()


@pytest.mark.parametrize("trap", ["open to all", "a link", "of another user"])
def test_a_socket_folder_that_is_not_ours_alone_is_not_used(deep_dir, place, monkeypatch, trap):
    if trap == "of another user" and not IS_ROOT:
        pytest.skip("needs root to make a folder of another user")
    (place / "first").mkdir()
    (place / "second").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place / "first"))
    monkeypatch.setattr(tempfile, "tempdir", str(place / "second"))
    squatted = place / "first" / short_name(deep_dir)
    if trap == "a link":
        (place / "elsewhere").mkdir(mode=0o700)
        squatted.symlink_to(place / "elsewhere")
    else:
        squatted.mkdir(mode=0o700)
        if trap == "open to all":
            squatted.chmod(0o777)
        else:
            os.chown(squatted, NOBODY, NOBODY)
    postgres = EmbeddedPostgres.join(deep_dir)
    assert socket_folder(postgres.url).parent == place / "second"
    postgres.leave()


def test_a_path_with_signs_that_shells_and_libpq_read_otherwise_is_just_a_path(
    place, made_once, monkeypatch
):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    with borrowed(made_once, place / 'a, b\'s "$HOME" `touch pwned` $(exit 1); ü%20&x=1') as odd:
        postgres = EmbeddedPostgres.join(odd)
        assert ask(postgres.url, "SHOW data_directory") == str(odd / "postgres")
        postgres.leave()
    with borrowed(made_once, place / "My Data 100%") as blank:
        postgres = EmbeddedPostgres.join(blank)
        assert socket_folder(postgres.url).parent == place / "My%20Data%20100%25"
        assert ask(postgres.url, "SHOW data_directory") == str(blank / "postgres")
        postgres.leave()


def test_a_data_directory_that_was_replaced_is_not_touched_by_those_of_the_old_one(
    place, made_once
):
    data_dir = copied(made_once, place / "data")
    old = EmbeddedPostgres.join(data_dir)
    data_dir.rename(place / "moved")
    copied(made_once, data_dir)
    new = EmbeddedPostgres.join(data_dir)
    with pytest.raises(EmbeddedPostgresError, match="removed or replaced"):
        old.ensure_running()
    assert not old.leave()
    assert ask(new.url, "SELECT 1") == 1
    assert new.leave()


def test_a_removed_data_directory_is_not_silently_made_anew(place, made_once):
    data_dir = copied(made_once, place / "data")
    postgres = EmbeddedPostgres.join(data_dir)
    shutil.rmtree(data_dir)
    with pytest.raises(EmbeddedPostgresError, match="No such file or directory"):
        postgres.ensure_running()
    assert not data_dir.exists()
    assert not postgres.leave()


def test_a_platform_without_the_wheel_is_told_what_to_set(place, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(EmbeddedPostgresUnavailable, match="HANDINGER_DATABASE_URL=postgresql://"):
        EmbeddedPostgres.join(place / "data")


def test_a_second_server_on_a_data_directory_is_told_who_has_it(place, holders):
    data_dir = place / "data"
    first = holders(data_dir)
    assert first.does("serve") == "serving"
    with pytest.raises(DataDirectoryInUse) as caught:
        ServeLock.acquire(data_dir)
    message = str(caught.value)
    assert str(data_dir) in message
    assert f"process {first.process.pid}" in message
    assert "HANDINGER_DATA_DIR" in message
    assert "HANDINGER_DATABASE_URL" in message


def test_a_killed_server_frees_the_data_directory_though_its_postgresql_lives(data_dir, holders):
    killed = holders(data_dir)
    assert killed.does("serve") == "serving"
    url = killed.does("join")
    killed.kill()
    serving = ServeLock.acquire(data_dir)
    assert ask(url, "SELECT 1") == 1
    serving.release()
    serving.release()
    ServeLock.acquire(data_dir).release()
    assert EmbeddedPostgres.join(data_dir).leave()


# As other users.

AS_NOBODY = """
import os, sys
from pathlib import Path
import psycopg
from handinger.storage.embedded import account
from handinger.storage.embedded import EmbeddedPostgres, EmbeddedPostgresError

account.programs()  # Found while the interpreter's own files can still be read.
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
place = Path(sys.argv[1])
postgres = EmbeddedPostgres.join(place / "data")
with psycopg.connect(postgres.url) as connection:
    print(connection.execute("SELECT 'works'").fetchone()[0])
owner = (place / "data" / "postgres").stat().st_uid
print(owner, postgres.leave())
for folder in ("closed", "of_root"):
    try:
        EmbeddedPostgres.join(place / folder)
    except EmbeddedPostgresError as error:
        print(error)
"""


@needs_root_on_linux
def test_an_ordinary_user_needs_nothing_special_and_is_told_what_is_closed(place):
    os.chown(place, NOBODY, NOBODY)
    (place / "closed").mkdir(mode=0o755)
    (place / "of_root" / "postgres").mkdir(parents=True)
    os.chown(place / "of_root", NOBODY, NOBODY)
    finished = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, place], capture_output=True, text=True, timeout=60
    )
    if "PermissionError" in finished.stderr and "postgres" in finished.stderr:
        pytest.skip("the virtual environment cannot be read by other users")
    assert finished.stderr == ""
    works, left, closed, of_root = finished.stdout.splitlines()
    assert (works, left) == ("works", f"{NOBODY} True")
    assert "closed cannot be used: Permission denied" in closed
    assert "belongs to root and this process runs as nobody" in of_root


@needs_root_on_linux
def test_root_runs_a_users_database_as_that_user_and_leaves_it_usable(place, made_once):
    place.chmod(0o755)
    data_dir = copied(made_once, place / "data")
    for path in [data_dir, *data_dir.rglob("*")]:
        os.chown(path, NOBODY, NOBODY)
    try:
        postgres = EmbeddedPostgres.join(data_dir)
    except EmbeddedPostgresError as error:
        if "Permission denied" in str(error):
            pytest.skip("the virtual environment cannot be read by other users")
        raise
    assert set(psutil.Process(postmaster_of(data_dir)).uids()) == {NOBODY}
    assert ask(postgres.url, "SELECT 1") == 1
    assert postgres.leave()
    assert {path.stat().st_uid for path in data_dir.iterdir()} == {NOBODY}


@needs_root_on_linux
def test_as_root_it_runs_without_privilege(data_dir):
    postgres = EmbeddedPostgres.join(data_dir)
    status = Path(f"/proc/{postmaster_of(data_dir)}/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    assert int(effective.split()[1], 16) == 0
    postgres.leave()


@pytest.fixture
def without_user_namespaces(place, monkeypatch) -> Iterator[Path]:
    """As in a container that forbids them; what is added to the system is taken away again."""
    fake = place / "bin" / "unshare"
    fake.parent.mkdir()
    fake.write_text(
        "#!/bin/sh\necho 'unshare: unshare failed: Operation not permitted' >&2\nexit 1"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(account, "SYSTEM_HOME", place / "var" / "handinger")
    user = f"handinger-test-{os.getpid()}"  # Tests may run in several processes.
    monkeypatch.setattr(account, "_SYSTEM_USER", user)
    place.chmod(0o711)
    yield place
    end_servers_under(place)
    with contextlib.suppress(KeyError):
        pwd.getpwnam(user)
        subprocess.run(["userdel", user], check=True, capture_output=True)


def join_as_system_user(data_dir: Path) -> EmbeddedPostgres:
    try:
        return EmbeddedPostgres.join(data_dir)
    except EmbeddedPostgresUnavailable as error:
        if "cannot be added" in str(error) or "cannot execute" in str(error):
            pytest.skip(str(error))
        raise


@needs_root_on_linux
def test_without_user_namespaces_root_gets_a_user_with_a_folder_of_its_own(
    without_user_namespaces, holders
):
    closed = without_user_namespaces / "closed"
    closed.mkdir(mode=0o700)
    data_dir = closed / "data"
    postgres = join_as_system_user(data_dir)
    run_sql(postgres.url, "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 42 AS answer")
    kept_in = (data_dir / "postgres").readlink()
    user = pwd.getpwnam(account._SYSTEM_USER)
    assert kept_in.parent == without_user_namespaces / "var" / "handinger"
    assert (kept_in.stat().st_uid, kept_in.stat().st_mode & 0o777) == (user.pw_uid, 0o700)
    assert psutil.Process(postmaster_of(data_dir)).uids().effective == user.pw_uid
    assert closed.stat().st_mode & 0o777 == 0o700
    assert postgres.leave()

    postgres = EmbeddedPostgres.join(data_dir)
    assert ask(postgres.url, "SELECT answer FROM kept") == 42
    assert holders(data_dir).does("join") == postgres.url
    os.kill(postmaster_of(data_dir), signal.SIGKILL)
    wait_until(lambda: not postgres.is_running())
    assert postgres.ensure_running()

    kept_in.rename(kept_in.with_name("lost"))
    with pytest.raises(EmbeddedPostgresError, match="held the data and is gone"):
        EmbeddedPostgres.join(data_dir)


@needs_root_on_linux
def test_without_user_namespaces_a_folder_that_the_user_can_reach_keeps_the_data(
    without_user_namespaces,
):
    data_dir = without_user_namespaces / "volume"
    data_dir.mkdir(mode=0o755)
    postgres = join_as_system_user(data_dir)
    user = pwd.getpwnam(account._SYSTEM_USER)
    assert (data_dir / "postgres").stat().st_uid == user.pw_uid
    assert data_dir.stat().st_uid == 0
    assert ask(postgres.url, "SELECT 1") == 1
    assert postgres.leave()


@needs_root_on_linux
def test_where_root_has_no_way_to_run_it_the_error_says_what_to_set(
    without_user_namespaces, made_once, monkeypatch
):
    monkeypatch.setattr(account, "_add_user", lambda _name: "useradd: cannot open /etc/passwd")
    with pytest.raises(
        EmbeddedPostgresUnavailable, match=r"cannot be added .*/etc/passwd"
    ) as caught:
        EmbeddedPostgres.join(without_user_namespaces / "new")
    assert "HANDINGER_DATABASE_URL=postgresql://" in str(caught.value)

    with (
        borrowed(made_once, without_user_namespaces / "made_before") as data_dir,
        pytest.raises(EmbeddedPostgresUnavailable, match=r"root owns .*/postgres") as caught,
    ):
        EmbeddedPostgres.join(data_dir)
    assert "HANDINGER_DATABASE_URL=postgresql://" in str(caught.value)


@needs_root_on_linux
def test_where_nobody_else_can_execute_it_the_error_says_so(
    without_user_namespaces, place, monkeypatch
):
    closed = place / "closed" / "bin"
    closed.parent.mkdir(mode=0o700)
    closed.symlink_to(account.programs())
    monkeypatch.setattr(account, "programs", lambda: closed)
    with pytest.raises(EmbeddedPostgresUnavailable, match=r"cannot execute|cannot be added"):
        EmbeddedPostgres.join(without_user_namespaces / "new")
