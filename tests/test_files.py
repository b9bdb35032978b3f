"""The rules for paths and media types of a workspace."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handinger import files, settings
from handinger.files import FileError
from handinger.ids import WorkerId


@pytest.mark.parametrize(
    ("given_path", "normal"),
    [
        ("report.md", "report.md"),
        ("./a//b/./c.txt", "a/b/c.txt"),
        ("a/b/", "a/b"),
        ("übersicht 1.csv", "übersicht 1.csv"),
        ("..a/b..", "..a/b.."),  # two dots are only special alone
    ],
)
def test_a_path_is_normalized(given_path: str, normal: str) -> None:
    assert files.normalize(given_path) == normal


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../up",
        "a/../../up",
        "a/..",
        "~/x",
        "",
        ".",
        "./",
        "a\0b",
        "\ud800",
        "x" * 1025,
        "folder/" + "x" * 256,
        "ü" * 128,
    ],
)
def test_a_path_that_is_not_in_the_workspace_is_refused(path: str) -> None:
    with pytest.raises(FileError):
        files.normalize(path)


@given(st.text(max_size=60))
def test_whatever_is_accepted_stays_inside_and_is_stable(path: str) -> None:
    try:
        normal = files.normalize(path)
    except FileError:
        return
    assert not normal.startswith("/")
    assert ".." not in normal.split("/")
    assert files.normalize(normal) == normal


@pytest.mark.parametrize(
    ("path", "published"),
    [
        ("a.txt", True),
        ("notes/a.txt", True),
        ("scratchpad/a.txt", False),
        ("inbox/a.txt", False),
        (".hidden", False),
        ("a/.hidden/b", False),
        ("my/scratchpad/a.txt", True),
    ],
)
def test_what_is_published_by_default(path: str, published: bool) -> None:
    assert files.is_published_by_default(path) is published


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        ("a.md", b"# Hi", "text/markdown"),
        ("a.png", b"", "image/png"),
        ("a.svg", b"<svg/>", "image/svg+xml"),
        ("a.tar.gz", b"", "application/gzip"),
        ("README", b"plain text", "text/plain"),
        ("README", "übersicht".encode(), "text/plain"),
        ("README", b"a" * 4095 + "ü".encode(), "text/plain"),  # cut inside a character
        ("data", b"\x00\x01", "application/octet-stream"),
        ("data", b"\xff\xfe\xfa" + b"a" * 10, "application/octet-stream"),
        ("empty", b"", "text/plain"),
    ],
)
def test_the_media_type_comes_from_name_and_content(
    path: str, content: bytes, expected: str
) -> None:
    assert files.media_type(path, content) == expected


def test_a_url_quotes_what_it_must() -> None:
    url = files.url(settings.load(), WorkerId("wrk_1"), "a b/ü?#%.txt")
    assert url.endswith("/api/workers/wrk_1/files/a%20b/%C3%BC%3F%23%25.txt")
