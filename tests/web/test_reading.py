"""Pages become clean text; what is built to harm a parser harms nobody."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from handinger.web import reader, reading
from handinger.web.fetching import Fetched
from handinger.web.guard import WebError
from handinger.web.reading import PageText, Reader

pytestmark = pytest.mark.anyio


@contextmanager
def fetched(body: bytes, media_type: str, charset: str | None = None) -> Generator[Fetched]:
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(body)
        file.seek(0)
        yield Fetched(
            url="https://example.com/docs/page",
            host="example.com",
            media_type=media_type,
            charset=charset,
            body=file,
            size=len(body),
        )


@pytest.fixture
async def reader_of() -> AsyncIterator[Callable[..., Reader]]:
    """Makes readers that end with the test."""
    made: list[Reader] = []

    def make(**limits: float) -> Reader:
        wall = {"wall_s": limits.pop("wall_s")} if "wall_s" in limits else {}
        made.append(Reader(reader.Limits(**limits), **wall))  # pyright: ignore[reportArgumentType]
        return made[-1]

    yield make
    for each in made:
        await each.close()


async def read(pages: Reader, body: bytes, media_type: str = "text/html") -> PageText:
    with fetched(body, media_type) as answer:
        return await pages.read(answer, media_type)


def in_process(body: str | bytes, media_type: str = "text/html", charset: str | None = None):
    """What the reading process makes of it, without the process."""
    raw = body.encode() if isinstance(body, str) else body
    return reader.read(
        raw, media_type=media_type, charset=charset, url="https://example.com/docs/page"
    )


# HTML


def test_a_page_becomes_clean_markdown():
    page = in_process(
        """<!doctype html><html><head><title> Sales
        2024 </title><style>p {}</style></head><body>
        <nav><a href="/">Home</a></nav>
        <main><h1>Sales</h1><script>alert(1)</script><!-- comment -->
        <p>Some <b>bold</b> and <em>slanted</em> text_with_lines &amp; more.</p>
        <ul><li>one</li><li>two</li></ul>
        <table><tr><th>Item</th><th>Amount</th></tr><tr><td>A|B</td><td>3</td></tr></table>
        <pre><code class="language-python">x = 1
  y</code></pre>
        <form><input name=q><button>Send</button></form></main>
        <footer>Imprint</footer></body></html>"""
    )
    assert page.title == "Sales\n        2024" or page.title == "Sales 2024"
    assert page.text == (
        "# Sales\n\nSome **bold** and *slanted* text_with_lines & more.\n\n- one\n- two\n\n"
        "| Item | Amount |\n| --- | --- |\n| A\\|B | 3 |\n\n```python\nx = 1\n  y\n```"
    )


def test_a_page_that_marks_no_main_part_is_kept_whole():
    page = in_process("<body><nav>Menu</nav><p>Text</p><footer>Imprint</footer></body>")
    assert page.text == "Menu\n\nText\n\nImprint"


@pytest.mark.parametrize("element", ["p", "main", "article", "section", "x-own"])
def test_a_page_may_leave_out_what_html_lets_it_leave_out(element: str):
    page = in_process(
        f"<!doctype html><meta charset=utf-8><title>T</title><style>p {{}}</style><{element}>Text"
    )
    assert (page.title, page.text) == ("T", "Text")


def test_what_a_person_would_not_see_is_left_out():
    page = in_process(
        '<p>Seen</p><p hidden>a</p><p style="display: none">b</p><p aria-hidden="true">c</p>'
        '<div style="VISIBILITY:hidden">d</div><template>e</template><noscript>f</noscript>'
    )
    assert page.text == "Seen"


def test_links_are_whole_and_lead_to_pages_only():
    page = in_process(
        '<a href="next?x=1&amp;y=2">next</a> <a href="/top">top</a> <a href="#here">here</a>'
        ' <a href="javascript:alert(1)">script</a> <a href="https://u:p@evil.test/">login</a>'
        ' <img src="chart.png" alt="Chart"> <img src="data:image/png;base64,AAAA" alt="dot">'
        ' <img src="pixel.png">'
    )
    assert page.text == (
        "[next](https://example.com/docs/next?x=1&y=2) [top](https://example.com/top) "
        "[here](https://example.com/docs/page#here) script login "
        "![Chart](https://example.com/docs/chart.png) dot"
    )
    assert {"example.com/docs/next?x=1&y=2", "example.com/top"} <= set(page.links)
    assert not any("evil.test" in link for link in page.links)


def test_a_base_moves_the_links():
    page = in_process('<base href="https://cdn.test/v2/"><a href="a">A</a>')
    assert page.text == "[A](https://cdn.test/v2/a)"


# Charsets


@pytest.mark.parametrize(
    ("body", "charset", "text"),
    [
        ("Grüße + €".encode(), "utf-8", "Grüße + €"),
        ("Grüße + €".encode(), None, "Grüße + €"),
        ("\ufeffGrüße".encode(), None, "Grüße"),
        ("Grüße + €".encode("cp1252"), "iso-8859-1", "Grüße + €"),  # as browsers read it
        ("Grüße".encode("utf-16"), None, "Grüße"),  # by its byte order mark
        ("Grüße".encode("utf-16"), "iso-8859-1", "Grüße"),  # the mark is stronger
        ("Привет, мир".encode("koi8-r"), "koi8-r", "Привет, мир"),
        ("日本語".encode("shift_jis"), "Shift_JIS", "日本語"),
        ("日本語".encode("iso-2022-jp"), "iso-2022-jp", "日本語"),
        ("中文".encode("gb18030"), "gb2312", "中文"),
        (b"plain", "no-such-charset", "plain"),
        (b"plain", "rot13", "plain"),
        (b"plain", "base64", "plain"),
        (b"plain", "zlib", "plain"),
    ],
)
def test_text_is_decoded(body: bytes, charset: str | None, text: str):
    assert in_process(body, "text/plain", charset).text == text


def test_a_page_may_declare_its_charset_itself():
    html = '<meta charset="windows-1251"><p>Привет</p>'.encode("windows-1251")
    assert in_process(html).text == "Привет"


# Kinds


@pytest.mark.parametrize(
    ("body", "declared", "kind"),
    [
        (b"<p>x</p>", "text/html", "text/html"),
        (b"\n <!DOCTYPE html><p>x", "", "text/html"),
        (b"<html>", "application/octet-stream", "text/html"),
        (b"%PDF-1.7\0\0", "application/octet-stream", "application/pdf"),
        (b"%PDF-1.7\0\0", "text/html", "application/pdf"),
        (b'{"a": 1}', "application/json", "application/json"),
        (b"a,b\n1,2\n", "text/csv", "text/csv"),
        (b"hello", "", "text/plain"),
        (b"\x89PNG\r\n\x1a\n\0\0", "image/png", "image/png"),
        (b"\x89PNG\r\n\x1a\n\0\0", "text/html", "application/octet-stream"),  # it lies
        (b"PK\3\4\0\0\0", "", "application/octet-stream"),
        (bytes(range(1, 32)) * 9, "", "application/octet-stream"),
        ("x".encode("utf-16"), "text/plain", "text/plain"),
    ],
)
def test_content_is_known_for_what_it_is(body: bytes, declared: str, kind: str):
    with fetched(body, declared) as answer:
        assert reading.kind_of(answer) == kind


# PDF


def make_pdf(texts: Iterable[str], title: str = "") -> bytes:
    writer = PdfWriter()
    for text in texts:
        page = writer.add_blank_page(300, 300)
        font = DictionaryObject(
            {
                NameObject("/Type"): NameObject("/Font"),
                NameObject("/Subtype"): NameObject("/Type1"),
                NameObject("/BaseFont"): NameObject("/Helvetica"),
            }
        )
        page[NameObject("/Resources")] = DictionaryObject(
            {NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})}
        )
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode())
        page[NameObject("/Contents")] = writer._add_object(stream)
    if title:
        writer.add_metadata({"/Title": title})
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def bomb_pdf(size: int, *, times: int = 1) -> bytes:
    """One page, whose content unpacks to about `size` bytes; packed so many times."""
    content = b"BT /F1 12 Tf (x) Tj ET\n" * (size // 23)
    for _ in range(times):
        content = zlib.compress(content, 9)
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 300] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d /Filter [%s] >>\nstream\n%s\nendstream"
        % (len(content), b"/FlateDecode " * times, content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    body, places = b"%PDF-1.7\n", list[int]()
    for number, written in enumerate(objects, 1):
        places.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, written)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 6\n0000000000 65535 f \n"
    end = b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(body)
    return body + head + table + end


async def test_a_pdf_is_read_page_by_page(reader_of: Callable[..., Reader]):
    body = make_pdf(["Hello world", "Second"], title="A paper")
    page = await read(reader_of(), body, "application/pdf")
    assert page.text == "[Page 1]\n\nHello world\n\n[Page 2]\n\nSecond"
    assert page.title == "A paper"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"%PDF-1.7 and nothing", "damaged"),
        (make_pdf([]), "no text"),
        (make_pdf([""]), "may be a scan"),
    ],
)
def test_a_pdf_that_cannot_be_read_says_why(body: bytes, said: str):
    assert said in in_process(body, "application/pdf").error


MIB = 1024 * 1024
BELOW = 450 * MIB  # what a harmless page needs is less, and what a bomb needs is more


@pytest.mark.parametrize(
    ("size", "times", "limits", "said"),
    [
        (60 * MIB, 1, {"memory_bytes": BELOW}, "more memory than a page may take"),
        (60 * MIB, 1, {"cpu_s": 1}, "too large or too complicated"),
        (300 * MIB, 1, {}, "unpacks to more than a PDF may"),
        (200 * MIB, 2, {}, "unpacks to more than a PDF may"),
    ],
    ids=["memory", "time", "one", "in another"],
)
async def test_a_pdf_bomb_ends_alone(
    reader_of: Callable[..., Reader], size: int, times: int, limits: dict[str, Any], said: str
):
    body = bomb_pdf(size, times=times)
    assert len(body) < MIB
    pages = reader_of(**limits)
    with pytest.raises(WebError, match=said):
        await read(pages, body, "application/pdf")
    assert (await read(pages, make_pdf(["Hello"]), "application/pdf")).text.endswith("Hello")


async def test_what_such_a_bomb_is_without_its_size_is_read(reader_of: Callable[..., Reader]):
    """So it is the size that was refused above, and not something else about it."""
    page = await read(reader_of(memory_bytes=BELOW), bomb_pdf(2300), "application/pdf")
    assert page.text == "[Page 1]\n\n" + "x" * 100


# The process


@pytest.mark.parametrize(
    ("body", "limits"),
    [
        (b"<p>x</p>" * 100_000, {"cpu_s": 1}),
        (b"<p>x</p>" * 100_000, {"wall_s": 0.3}),
        (b"<ul>" + b"<li>" * 400_000, {"cpu_s": 1}),
    ],
    ids=["time", "patience", "depth"],
)
async def test_a_page_that_is_too_complicated_ends_alone(
    reader_of: Callable[..., Reader], body: bytes, limits: dict[str, Any]
):
    pages = reader_of(**limits)
    with pytest.raises(WebError, match="too large or too complicated"):
        await read(pages, body)
    if "cpu_s" in limits:
        assert (await read(pages, b"<p>after</p>")).text == "after"
    assert pages.pid is not None
    await until(lambda: not children(pages.pid))


async def test_a_page_that_needs_much_memory_ends_alone(reader_of: Callable[..., Reader]):
    pages = reader_of(memory_bytes=BELOW)
    with pytest.raises(WebError, match=r"more memory|too large"):
        await read(pages, b"x" * 150 * MIB, "text/plain")
    assert (await read(pages, b"<p>after</p>")).text == "after"


async def test_a_deeply_nested_page_is_read(reader_of: Callable[..., Reader]):
    """To the depth that the parser has a stack for; what is deeper is read without its marks."""
    for depth in (200, 20_000):
        body = b"<div>" * depth + b"<p>inside</p>" + b"</div>" * depth + b"<p>after</p>"
        assert (await read(reader_of(), body)).text.split() == ["inside", "after"]


async def test_one_process_reads_all_pages_each_in_its_own(reader_of: Callable[..., Reader]):
    pages = reader_of()
    texts = await asyncio.gather(*(read(pages, b"<p>%d</p>" % number) for number in range(8)))
    assert [page.text for page in texts] == [str(number) for number in range(8)]
    first = pages.pid
    assert first is not None
    await until(lambda: not children(first))
    assert (await read(pages, b"again")).text == "again"
    assert pages.pid == first


async def test_a_reader_that_lost_its_process_starts_another(reader_of: Callable[..., Reader]):
    pages = reader_of()
    await read(pages, b"x")
    assert pages.pid is not None
    os.kill(pages.pid, signal.SIGKILL)
    for _ in range(20):
        with suppress(WebError):  # A page may be lost with it.
            assert (await read(pages, b"again")).text == "again"
            return
    pytest.fail("no page was read any more")


async def test_a_lost_process_is_replaced_by_one_for_all(
    reader_of: Callable[..., Reader], monkeypatch: pytest.MonkeyPatch
):
    pages = reader_of()
    await read(pages, b"x")
    lost = pages.pid
    assert lost is not None
    os.kill(lost, signal.SIGKILL)
    await until(lambda: not is_alive(lost))
    started: list[subprocess.Popen[bytes]] = []
    start, wait = subprocess.Popen, reading._wait_for

    def noted(*args: Any, **more: Any) -> subprocess.Popen[bytes]:
        started.append(start(*args, **more))
        return started[-1]

    def slow(process: subprocess.Popen[bytes]) -> None:
        time.sleep(0.5)  # In which others come.
        wait(process)

    monkeypatch.setattr(subprocess, "Popen", noted)
    monkeypatch.setattr(reading, "_wait_for", slow)
    texts = await asyncio.gather(*(read(pages, b"<p>%d</p>" % number) for number in range(6)))
    assert [page.text for page in texts] == [str(number) for number in range(6)]
    assert [process.pid for process in started] == [pages.pid]
    await pages.close()
    assert started[0].returncode is not None


async def test_who_loses_interest_ends_the_reading(reader_of: Callable[..., Reader]):
    pages = reader_of()
    await read(pages, b"x")
    reading = asyncio.create_task(read(pages, b"<p>x</p>" * 400_000))
    assert pages.pid is not None
    await until(lambda: children(pages.pid))
    reading.cancel()
    await until(lambda: not children(pages.pid))
    assert (await read(pages, b"after")).text == "after"


def test_the_process_ends_with_the_one_that_started_it():
    """However that ends."""
    code = (
        "import asyncio, tempfile, time; from handinger.web.reading import Reader;"
        "from handinger.web.fetching import Fetched\n"
        "async def main():\n"
        "    body = tempfile.TemporaryFile(buffering=0); body.write(b'<p>x</p>' * 400_000)\n"
        "    body.seek(0); pages = Reader()\n"
        "    page = Fetched('https://a.test/', 'a.test', 'text/html', None, body, 9)\n"
        "    reading = asyncio.create_task(pages.read(page, 'text/html'))\n"
        "    await asyncio.sleep(0); await asyncio.sleep(0); print(pages.pid, flush=True)\n"
        "    await reading\n"
        "asyncio.run(main())"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        pid = int(server.stdout.readline())
        deadline = time.monotonic() + 30
        while not (started := children(pid)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        server.kill()
    while any(map(is_alive, [pid, *started])):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children(pid: int | None) -> list[int]:
    """Of a process: those that it started, and has not cleared away."""
    try:
        return [int(word) for word in of_process(pid, f"task/{pid}/children").split()]
    except FileNotFoundError:
        return []


def of_process(pid: int | None, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def is_alive(pid: int) -> bool:
    try:
        status = of_process(pid, "stat")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 # Nobody tells of it.
            await asyncio.sleep(0.02)


def test_the_process_has_little_memory_and_no_secret():
    """What it says of itself, as it is always started."""
    code = (
        "import json, os, resource; from handinger.web import reader;"
        "reader._limit(reader.Limits());"
        "print(json.dumps([dict(os.environ), resource.getrlimit(resource.RLIMIT_AS)[0],"
        " resource.getrlimit(resource.RLIMIT_CPU)[0]]))"
    )
    out = subprocess.run(
        [sys.executable, "-I", "-c", code],
        env={"LANG": "C.UTF-8"},
        capture_output=True,
        check=True,
    )
    environment, memory, cpu = json.loads(out.stdout)
    assert set(environment) <= {"LANG", "LC_CTYPE"}
    assert (memory, cpu) == (reader.Limits().memory_bytes, reader.Limits().cpu_s)


async def test_the_process_inherits_nothing_of_the_server(
    reader_of: Callable[..., Reader], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HANDINGER_BOOTSTRAP_API_KEY", "secret")
    pages = reader_of()
    await read(pages, b"x")
    environment = of_process(pages.pid, "environ")
    assert environment.split("\0")[0] == "LANG=C.UTF-8"
    assert "secret" not in environment
    nice = int(of_process(pages.pid, "stat").rpartition(")")[2].split()[16])
    assert nice >= min(19, os.nice(0) + reader._NICENESS)


def test_no_parser_is_loaded_by_what_the_server_imports():
    code = (
        "import sys; import handinger.agent.tools.web;"
        "print([m for m in ('bs4', 'lxml', 'markdownify', 'pypdf', 'ddgs') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert out.stdout.strip() == b"[]"
