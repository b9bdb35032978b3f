"""Pages become clean text; what is built to harm a parser harms nobody."""

import io
import os
import tempfile
import zlib
from collections.abc import Generator, Iterable
from contextlib import contextmanager

import pytest
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject, StreamObject

from handinger.web import reader, reading
from handinger.web.fetching import Fetched
from handinger.web.guard import WebError
from handinger.web.reading import PageText, Reader

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


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


async def read(body: bytes, media_type: str) -> PageText:
    with fetched(body, media_type) as answer:
        return await Reader().read(answer, media_type)


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


def bomb_pdf(size: int) -> bytes:
    """One page, whose content unpacks to `size` bytes."""
    writer = PdfWriter()
    page = writer.add_blank_page(300, 300)
    stream = StreamObject()
    packer = zlib.compressobj(9)
    piece = b"BT (x) Tj ET " * 80_000
    packed = b"".join(packer.compress(piece) for _ in range(size // len(piece)))
    stream._data = packed + packer.flush()
    stream[NameObject("/Filter")] = NameObject("/FlateDecode")
    page[NameObject("/Contents")] = writer._add_object(stream)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


async def test_a_pdf_is_read_page_by_page():
    body = make_pdf(["Hello world", "Second"], title="A paper")
    page = await read(body, "application/pdf")
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


async def test_a_pdf_bomb_ends_with_its_process():
    body = bomb_pdf(300 * 1024 * 1024)
    assert len(body) < 5 * 1024 * 1024
    with pytest.raises(WebError, match="cannot be read"):
        await read(body, "application/pdf")


# The process


async def test_a_page_that_is_too_complicated_ends_with_its_process(
    monkeypatch: pytest.MonkeyPatch,
):
    """The limit is the process's own; here a shorter wait stands for it."""
    monkeypatch.setattr(reading, "_WALL_S", 0.5)
    body = b"<p>x</p>" * 2_000_000
    with pytest.raises(WebError, match="too large or too complicated"):
        await read(body, "text/html")


async def test_a_deeply_nested_page_is_read():
    body = b"<div>" * 50_000 + b"inside" + b"</div>" * 50_000
    page = await read(body, "text/html")
    assert page.text in ("inside", "")


def test_the_process_has_little_memory_and_no_secret():
    """What it says of itself, started as it is always started."""
    import json
    import subprocess
    import sys

    code = (
        "import json, os, resource; from handinger.web import reader; reader._limit();"
        "print(json.dumps([dict(os.environ), resource.getrlimit(resource.RLIMIT_AS)[0],"
        " resource.getrlimit(resource.RLIMIT_CPU)[0], os.nice(0)]))"
    )
    out = subprocess.run(
        [sys.executable, "-I", "-c", code],
        env={"LANG": "C.UTF-8"},
        capture_output=True,
        check=True,
    )
    environment, memory, cpu, nice = json.loads(out.stdout)
    assert set(environment) <= {"LANG", "LC_CTYPE"}
    assert memory == reader._MEMORY_BYTES
    assert cpu == reader._CPU_S
    assert nice >= min(19, os.nice(0) + reader._NICENESS)


def test_no_parser_is_loaded_by_what_the_server_imports():
    import subprocess
    import sys

    code = (
        "import sys; import handinger.agent.tools.web;"
        "print([m for m in ('bs4', 'lxml', 'markdownify', 'pypdf', 'ddgs') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert out.stdout.strip() == b"[]"
