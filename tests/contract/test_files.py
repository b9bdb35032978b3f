"""Workspace files over HTTP (1.5)."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import quote

import httpx2
import pytest

from tests.contract.wire import error_in, worker_in
from tests.contract.world import Api, Scripts
from tests.support.model_server import Step, ToolCall

DIGITS = "0123456789"
CONTENTS = {
    "digits.txt": DIGITS,
    "empty.txt": "",
    "deep/er/and deeper/x.md": "# Title",
    "ünï cödé 😀.txt": "unicode",
    "q\"uo'te%2F;a=b?c#d&e.txt": "marks",
    "line\r\nX-Evil: yes.txt": "breaks",
    "page.html": "<script>alert(1)</script>",
    "PAGE.HTM": "<script>alert(1)</script>",
    "page.xhtml": "<html/>",
    "drawing.svg": "<svg onload='alert(1)'/>",
    "DRAWING.SVG": "<svg/>",
    "image.png": "not really",
    "photo.jpeg": "not really",
    "paper.pdf": "%PDF-1.4",
    "data.json": "{}",
    "table.csv": "a,b",
    "script.js": "alert(1)",
    "style.css": "a{}",
    "feed.xml": "<a/>",
    "archive.tar.gz": "not really",
    "README": "no extension",
    "binary": "\0\1\2",
    "odd.unknownextension": "text",
    ".hidden": "hidden",
    "inbox/mail.txt": "unpublished",
    "folder/inner.txt": "inner",
    "big.bin": "x" * 3_000_000,
}


class Shelf(NamedTuple):
    """A worker that has all these files."""

    api: Api
    path: str

    def url(self, name: str) -> str:
        return f"{self.path}/files/{quote(name)}"

    def get(self, name: str, **headers: str) -> httpx2.Response:
        named = {header.replace("_", "-"): value for header, value in headers.items()}
        return self.api.client.get(self.url(name), headers=named)

    def head(self, name: str, **headers: str) -> httpx2.Response:
        named = {header.replace("_", "-"): value for header, value in headers.items()}
        return self.api.client.head(self.url(name), headers=named)


@pytest.fixture(scope="module")
def shelf(api: Api, scripts: Scripts) -> Shelf:
    calls = [
        ToolCall("write_file", {"path": path, "content": content})
        for path, content in CONTENTS.items()
    ]
    worker = worker_in(api.create(scripts(Step(tool_calls=calls), Step(text="x"))))
    return Shelf(api, f"/api/workers/{worker['id']}")


@pytest.mark.parametrize("name", CONTENTS)
def test_every_file_can_be_read_published_or_not(shelf: Shelf, name: str):
    answer = shelf.get(name)
    assert answer.status_code == 200
    expected = CONTENTS[name].encode()
    assert answer.content == expected
    assert answer.headers["content-length"] == str(len(expected))
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["etag"].startswith('"')
    assert answer.headers["etag"].endswith('"')
    changed = parsedate_to_datetime(answer.headers["last-modified"])
    assert abs(datetime.now(UTC) - changed) < timedelta(minutes=5)
    assert "x-evil" not in answer.headers
    disposition = answer.headers["content-disposition"]
    assert disposition.split(";")[0] in ("inline", "attachment")
    assert f"filename*=UTF-8''{quote(name.rsplit('/', 1)[-1], safe='')}" in disposition


@pytest.mark.parametrize("name", CONTENTS)
def test_head_tells_the_same_without_the_bytes(shelf: Shelf, name: str):
    got, head = shelf.get(name), shelf.head(name)
    assert (head.status_code, head.content) == (200, b"")
    varying = ("date", "x-request-id")
    for header, value in got.headers.items():
        assert header in varying or head.headers[header] == value, header


@pytest.mark.parametrize(
    ("name", "media_type", "disposition"),
    [
        ("digits.txt", "text/plain; charset=utf-8", "inline"),
        ("README", "text/plain; charset=utf-8", "inline"),
        ("odd.unknownextension", "text/plain; charset=utf-8", "inline"),
        ("image.png", "image/png", "inline"),
        ("photo.jpeg", "image/jpeg", "inline"),
        ("paper.pdf", "application/pdf", "inline"),
        ("page.html", "text/html; charset=utf-8", "attachment"),
        ("PAGE.HTM", "text/html; charset=utf-8", "attachment"),
        ("page.xhtml", "application/xhtml+xml", "attachment"),
        ("drawing.svg", "image/svg+xml", "attachment"),
        ("DRAWING.SVG", "image/svg+xml", "attachment"),
        ("data.json", "application/json", "attachment"),
        ("table.csv", "text/csv; charset=utf-8", "attachment"),
        ("style.css", "text/css; charset=utf-8", "attachment"),
        ("deep/er/and deeper/x.md", "text/markdown; charset=utf-8", "attachment"),
        ("archive.tar.gz", "application/gzip", "attachment"),
        ("binary", "application/octet-stream", "attachment"),
    ],
)
def test_type_and_disposition_go_by_name_and_content(
    shelf: Shelf, name: str, media_type: str, disposition: str
):
    answer = shelf.get(name)
    assert answer.headers["content-type"] == media_type
    assert answer.headers["content-disposition"].split(";")[0] == disposition


@pytest.mark.parametrize(
    "name", ["page.html", "page.xhtml", "drawing.svg", "script.js", "feed.xml"]
)
def test_what_could_run_scripts_is_never_shown_in_place(shelf: Shelf, name: str):
    answer = shelf.get(name)
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "target",
    [
        "deep/er/and%20deeper/x.md",
        "deep%2Fer%2Fand%20deeper%2Fx.md",
        "deep%2fer/and%20deeper%2fx.md",
        "%64eep/er/and%20deeper/x%2emd",
    ],
)
def test_slashes_may_be_plain_or_encoded(shelf: Shelf, target: str):
    answer = shelf.api.raw("GET", f"{shelf.path}/files/{target}")
    assert (answer.status_code, answer.text) == (200, "# Title")


@pytest.mark.parametrize(
    "target",
    [
        "..",
        "../",
        "../files/digits.txt",
        "folder/../digits.txt",
        "./digits.txt",
        "folder/./inner.txt",
        "folder//inner.txt",
        "%2e%2e/%2e%2e/etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "folder%2f..%2fdigits.txt",
        "..%5c..%5cetc%5cpasswd",
        "..\\..\\etc\\passwd",
        "%252e%252e%252fetc%252fpasswd",
        "%c0%ae%c0%ae/etc/passwd",
        "%uff0e%uff0e/etc/passwd",
        "..;/etc/passwd",
        "/etc/passwd",
        "//etc/passwd",
        "%2fetc%2fpasswd",
        "~/digits.txt",
        "~root/.bashrc",
        "C:%5cdigits.txt",
        "file:%2f%2f%2fetc%2fpasswd",
        "",
        "folder",
        "folder/",
        "deep/er",
        ".",
        "%2e",
        "digits.txt/",
        "digits.txt%00",
        "digits.txt%00.png",
        "%00",
        "DIGITS.TXT",
        "digits.tx",
        "digits.txt%20",
        "nothing.txt",
        "%FF",
        "%ED%A0%80",
        "%F0%9F%98%80",
        "a" * 5000,
        "a/" * 2000,
    ],
)
def test_what_is_no_file_in_the_workspace_is_404(shelf: Shelf, target: str):
    for method in ("GET", "HEAD"):
        answer = shelf.api.raw(method, f"{shelf.path}/files/{target}")
        assert answer.status_code == 404
        assert "root:" not in answer.text
    error = error_in(shelf.api.raw("GET", f"{shelf.path}/files/{target}"), 404, "not_found")
    assert "file" in error["error"]


def test_the_files_of_a_worker_that_is_not_there_are_404(shelf: Shelf):
    missing = shelf.path[:-1] + ("0" if shelf.path[-1] != "0" else "1")
    error_in(shelf.api.client.get(f"{missing}/files/digits.txt"), 404, "not_found")
    error_in(shelf.api.client.get(f"{shelf.path}/files"), 404, "not_found")


def test_a_url_in_files_leads_to_the_file(shelf: Shelf):
    worker = shelf.api.client.get(shelf.path).json()
    urls = {file["filename"]: file["url"] for file in worker["files"]}
    assert set(urls) == set(CONTENTS) - {".hidden", "inbox/mail.txt"}
    for name, url in urls.items():
        assert shelf.api.client.get(url).content == CONTENTS[name].encode()


# Ranges


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-4", 0, 5),
        ("bytes=3-5", 3, 6),
        ("bytes=9-9", 9, 10),
        ("bytes=5-", 5, 10),
        ("bytes=0-", 0, 10),
        ("bytes=-3", 7, 10),
        ("bytes=-10", 0, 10),
        ("bytes=-1000", 0, 10),
        ("bytes=8-1000", 8, 10),
        ("bytes=0-99999999999999999", 0, 10),
    ],
)
def test_a_range_gets_its_part(shelf: Shelf, asked: str, start: int, end: int):
    answer = shelf.get("digits.txt", Range=asked)
    assert answer.status_code == 206
    assert answer.text == DIGITS[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/10"
    assert answer.headers["content-length"] == str(end - start)
    whole = shelf.get("digits.txt")
    for header in ("etag", "last-modified", "content-type", "content-disposition"):
        assert answer.headers[header] == whole.headers[header]


def test_a_large_file_comes_in_the_parts_that_are_asked_for(shelf: Shelf):
    whole = b""
    for start in range(0, 3_000_000, 1_400_000):
        whole += shelf.get("big.bin", Range=f"bytes={start}-{start + 1_399_999}").content
    assert whole == shelf.get("big.bin").content


@pytest.mark.parametrize(
    "asked",
    ["bytes=10-", "bytes=10-20", "bytes=1000-", "bytes=-0", "bytes=99999999999-99999999999"],
)
def test_a_range_beyond_the_end_is_416_and_tells_the_size(shelf: Shelf, asked: str):
    answer = shelf.get("digits.txt", Range=asked)
    error_in(answer, 416, "range_not_satisfiable")
    assert answer.headers["content-range"] == "bytes */10"


@pytest.mark.parametrize("asked", ["bytes=0-0", "bytes=0-", "bytes=-1", "bytes=5-"])
def test_an_empty_file_has_no_range(shelf: Shelf, asked: str):
    answer = shelf.get("empty.txt", Range=asked)
    error_in(answer, 416, "range_not_satisfiable")
    assert answer.headers["content-range"] == "bytes */0"


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=0-1,3-4",  # Several ranges may be answered with the whole.
        "bytes=5-2",
        "bytes=a-b",
        "bytes=-",
        "bytes=",
        "bytes",
        "lines=0-1",
        "bytes=0x0-0x5",
        "bytes=1.0-2",
        "bytes=--5",
        "bytes=1 - 2",
        "",
    ],
)
def test_a_range_that_cannot_be_read_gets_the_whole(shelf: Shelf, asked: str):
    answer = shelf.get("digits.txt", Range=asked)
    assert (answer.status_code, answer.text) == (200, DIGITS)
    assert "content-range" not in answer.headers


def test_head_knows_no_ranges(shelf: Shelf):
    """RFC 9110, section 14.2."""
    for asked in ("bytes=0-1", "bytes=1000-"):
        answer = shelf.head("digits.txt", Range=asked)
        assert (answer.status_code, answer.headers["content-length"]) == (200, "10")


# Conditions


def _tag(shelf: Shelf, name: str = "digits.txt") -> str:
    return shelf.head(name).headers["etag"]


def _date(shelf: Shelf, *, later_s: int = 0) -> str:
    changed = parsedate_to_datetime(shelf.head("digits.txt").headers["last-modified"])
    return format_datetime(changed + timedelta(seconds=later_s), usegmt=True)


def _unchanged(answer: httpx2.Response) -> bool:
    if answer.status_code == 200:
        assert answer.text == DIGITS
        return False
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"]
    assert answer.headers["last-modified"]
    return True


def test_a_tag_names_the_content(shelf: Shelf):
    assert _tag(shelf) == _tag(shelf)
    assert _tag(shelf) != _tag(shelf, "empty.txt")


def test_if_none_match_spares_what_the_reader_has(shelf: Shelf):
    tag = _tag(shelf)
    for given in (tag, f"W/{tag}", "*", f'"a", {tag}', f'"a",{tag},"b"'):
        assert _unchanged(shelf.get("digits.txt", If_None_Match=given)), given
        assert shelf.head("digits.txt", If_None_Match=given).status_code == 304
    for given in ('"a"', tag.strip('"'), _tag(shelf, "empty.txt"), "", "W/"):
        assert not _unchanged(shelf.get("digits.txt", If_None_Match=given)), given


def test_if_modified_since_spares_what_the_reader_has(shelf: Shelf):
    for later_s, spared in ((0, True), (1, True), (86_400, True), (-1, False), (-86_400, False)):
        given = _date(shelf, later_s=later_s)
        assert _unchanged(shelf.get("digits.txt", If_Modified_Since=given)) is spared, later_s
    for given in ("yesterday", "", "0", "Mon, 99 Jan 2024 99:99:99 GMT"):
        assert not _unchanged(shelf.get("digits.txt", If_Modified_Since=given)), given


def test_if_none_match_wins_over_if_modified_since(shelf: Shelf):
    late, early = _date(shelf, later_s=60), _date(shelf, later_s=-60)
    changed = shelf.get("digits.txt", If_None_Match='"a"', If_Modified_Since=late)
    assert not _unchanged(changed)
    same = shelf.get("digits.txt", If_None_Match=_tag(shelf), If_Modified_Since=early)
    assert _unchanged(same)


def test_if_match_wants_the_version_that_it_names(shelf: Shelf):
    tag = _tag(shelf)
    for given in (tag, "*", f'"a", {tag}'):
        assert shelf.get("digits.txt", If_Match=given).text == DIGITS
    for given in ('"a"', f"W/{tag}", ""):
        error_in(shelf.get("digits.txt", If_Match=given), 412, "precondition_failed")


def test_if_unmodified_since_wants_no_later_version(shelf: Shelf):
    assert shelf.get("digits.txt", If_Unmodified_Since=_date(shelf)).text == DIGITS
    early = _date(shelf, later_s=-1)
    error_in(shelf.get("digits.txt", If_Unmodified_Since=early), 412, "precondition_failed")
    # If-Match says it better.
    answer = shelf.get("digits.txt", If_Unmodified_Since=early, If_Match=_tag(shelf))
    assert answer.text == DIGITS


def test_if_range_gives_the_part_of_the_version_that_it_names_else_the_whole(shelf: Shelf):
    tag = _tag(shelf)
    for given in (tag, _date(shelf)):
        answer = shelf.get("digits.txt", Range="bytes=0-1", If_Range=given)
        assert (answer.status_code, answer.text) == (206, "01")
    others = ('"a"', f"W/{tag}", _date(shelf, later_s=-1), _date(shelf, later_s=1), "nonsense", "")
    for given in others:
        answer = shelf.get("digits.txt", Range="bytes=0-1", If_Range=given)
        assert (answer.status_code, answer.text) == (200, DIGITS), given


def test_conditions_come_before_ranges(shelf: Shelf):
    answer = shelf.get("digits.txt", Range="bytes=0-1", If_None_Match=_tag(shelf))
    assert answer.status_code == 304
    answer = shelf.get("digits.txt", Range="bytes=1000-", If_None_Match='"a"')
    assert answer.status_code == 416


def test_a_file_that_is_written_anew_has_another_tag_and_the_new_bytes(api: Api, scripts: Scripts):
    def write(content: str) -> Step:
        return Step(tool_calls=[ToolCall("write_file", {"path": "a.txt", "content": content})])

    worker = worker_in(api.create(scripts(write("one"), Step(text="x"))))
    url = worker["files"][0]["url"]
    first = api.client.get(url)
    worker_in(api.go_on(worker["id"], scripts(write("second"), Step(text="x"))))
    second = api.client.get(url, headers={"If-None-Match": first.headers["etag"]})
    assert (second.status_code, second.text) == (200, "second")
    assert second.headers["etag"] != first.headers["etag"]
    assert api.worker(worker["id"])["files"][0]["size"] == 6


def test_a_file_can_be_read_while_the_turn_that_wrote_it_runs(api: Api, scripts: Scripts):
    instruction = scripts.new()
    write = ToolCall("write_file", {"path": "a.txt", "content": "early"})
    instruction.model.script(
        instruction.name,
        [Step(tool_calls=[write]), Step(text="x", gate=instruction.gate())],
    )
    worker_id = api.start(instruction)["id"]
    instruction.wait_for(2)
    (file,) = api.worker(worker_id)["files"]
    assert api.client.get(file["url"]).text == "early"
    instruction.open()
    api.wait_until_idle(worker_id)
