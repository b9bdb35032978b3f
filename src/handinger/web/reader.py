"""The process that reads one page: bytes on its standard input become text on its output.

It runs on its own because what it parses is written by strangers: it has little memory, little time
and no secret, and dies alone. Started by `reading`; imports nothing of the server.
"""

import contextlib
import io
import json
import os
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any
from urllib.parse import urljoin

from handinger.web import urls

MAX_CHARACTERS = 2_000_000

_MEMORY_BYTES = 1024**3
_CPU_S = 20
_PDF_CPU_S = 12.0  # after which no further page of a PDF is begun
_NICENESS = 10
_DEPTH = 20_000
_STACK_BYTES = 256 * 1024**2

# What a label means where it is used: browsers read these so, and pages are made for browsers.
_CHARSETS = {
    "iso-8859-1": "windows-1252",
    "latin-1": "windows-1252",
    "latin1": "windows-1252",
    "us-ascii": "windows-1252",
    "ascii": "windows-1252",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949",
}
_LEFT_OUT = (
    "script", "style", "template", "noscript", "svg", "iframe", "object", "canvas", "button",
    "input", "select", "textarea", "head",
)  # fmt: skip
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_BLANK_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*){2,}")


@dataclass(slots=True)
class Text:
    """What was read."""

    text: str = ""
    title: str | None = None
    links: list[str] = field(default_factory=list[str])  # addresses
    note: str = ""  # what the reader should know of it
    error: str = ""  # why there is no text


def main() -> None:
    """Read the page that is described by the first argument."""
    spec = json.loads(sys.argv[1])
    _limit()
    body = sys.stdin.buffer.read()
    told: list[Text] = []
    # A thread, because only a thread's stack can be made large enough for deep pages.
    threading.stack_size(_STACK_BYTES)
    sys.setrecursionlimit(_DEPTH)
    thread = threading.Thread(target=lambda: told.append(read(body, **spec)))
    thread.start()
    thread.join()
    text = told[0] if told else Text(error="It could not be parsed.")
    json.dump(asdict(text), sys.stdout)


def _limit() -> None:
    os.nice(_NICENESS)
    signal.signal(signal.SIGXCPU, _give_up)
    for kind, soft, hard in (
        (resource.RLIMIT_CPU, _CPU_S, _CPU_S + 3),
        (resource.RLIMIT_AS, _MEMORY_BYTES, _MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, 64, 64),
    ):
        with contextlib.suppress(ValueError, OSError):  # Not every system knows every limit.
            resource.setrlimit(kind, (soft, hard))


def _give_up(number: int, frame: FrameType | None) -> None:
    """The time is up; whoever waits is told so by an exit status of its own."""
    del number, frame
    os._exit(os.EX_TEMPFAIL)


def read(body: bytes, *, media_type: str, charset: str | None, url: str) -> Text:
    """The text of a page of one of the kinds that `reading` sends here."""
    try:
        if media_type == "application/pdf":
            text = _read_pdf(body)
        elif media_type in ("text/html", "application/xhtml+xml"):
            text = _read_html(decode(body, charset, is_html=True), url)
        else:
            text = Text(decode(body, charset, is_html=False))
    except MemoryError:
        return Text(error="It needs more memory than a page may take.")
    if len(text.text) > MAX_CHARACTERS:
        text.text = text.text[:MAX_CHARACTERS]
        text.note = f"{text.note} Only the first {MAX_CHARACTERS} characters were kept.".strip()
    text.text = text.text.replace("\r\n", "\n").replace("\r", "\n").strip()
    text.links = sorted(urls.addresses_in(text.text) | urls.addresses(text.links))
    return text


def decode(body: bytes, charset: str | None, *, is_html: bool) -> str:
    """By byte order mark, else as the server says, else as the page says, else by its look."""
    from bs4.dammit import UnicodeDammit  # noqa: PLC0415 # Only where text is read.

    label = (charset or "").strip().lower()
    if not label and b"\x1b" not in body:  # What has escapes may be an older Japanese coding.
        with contextlib.suppress(UnicodeDecodeError):
            return body.decode("utf-8-sig")
    known = [_CHARSETS.get(label, label)] if label else []
    found = UnicodeDammit(body, user_encodings=known, is_html=is_html)
    if found.unicode_markup is not None:
        return found.unicode_markup
    return body.decode("utf-8", errors="replace")


def _read_html(html: str, url: str) -> Text:
    from bs4 import BeautifulSoup  # noqa: PLC0415

    soup: Any = BeautifulSoup(html, "lxml")
    title = soup.title.get_text(" ", strip=True)[:500] if soup.title else None
    base = soup.find("base", href=True)
    root = urljoin(url, base["href"]) if base else url
    for element in soup(_LEFT_OUT):
        element.decompose()
    for element in soup.find_all(_is_hidden):
        element.decompose()
    links = list(_resolve_links(soup, root))
    content = _main_part(soup)
    try:
        text = _converter().convert_soup(content)
    except RecursionError:
        text = content.get_text("\n", strip=True)
    return Text(_BLANK_LINES.sub("\n\n", text), title or None, links)


def _is_hidden(element: Any) -> bool:
    attributes: dict[str, Any] = element.attrs or {}
    return (
        "hidden" in attributes
        or attributes.get("aria-hidden") == "true"
        or bool(_HIDDEN.search(str(attributes.get("style", ""))))
    )


def _main_part(soup: Any) -> Any:
    """What the page itself marks as its content, if that is one part and not an empty one."""
    marked = soup.find_all("main") or soup.find_all(attrs={"role": "main"})
    if len(marked) == 1 and marked[0].get_text(strip=True):
        return marked[0]
    return soup.body or soup


def _resolve_links(soup: Any, root: str) -> Iterator[str]:
    """Make every link whole; one that leads to no page becomes plain text."""
    for link in soup.find_all("a", href=True):
        with contextlib.suppress(ValueError):
            whole = urljoin(root, str(link["href"]).strip())
            if urls.address(whole) is not None:
                link["href"] = whole
                yield whole
                continue
            if whole.startswith("mailto:"):
                continue
        link.unwrap()
    for image in soup.find_all("img"):
        source = ""
        with contextlib.suppress(ValueError):
            source = urljoin(root, str(image.get("src", "")).strip())
        if not image.get("alt") or urls.address(source) is None:
            image.replace_with(str(image.get("alt", "")))
        else:
            image["src"] = source
            yield source


def _converter() -> Any:
    from markdownify import ATX, MarkdownConverter  # noqa: PLC0415

    class Converter(MarkdownConverter):  # pyright: ignore[reportMissingTypeArgument]
        """Escapes only what would break a table: the text is for reading, not for rendering."""

        def convert_td(self, el: Any, text: str, parent_tags: Any) -> Any:
            return super().convert_td(el, text.replace("|", r"\|"), parent_tags)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]

        def convert_th(self, el: Any, text: str, parent_tags: Any) -> Any:
            return super().convert_th(el, text.replace("|", r"\|"), parent_tags)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]

    return Converter(
        heading_style=ATX,
        bullets="-",
        escape_asterisks=False,
        escape_underscores=False,
        code_language_callback=_code_language,
        table_infer_header=True,
    )


def _code_language(element: Any) -> str:
    """Of `class="language-python"`, on the block or on the code in it."""
    for tag in (element, element.find("code")):
        names: list[str] = (tag.get("class") or []) if tag is not None else []
        for name in names:
            if name.startswith("language-"):
                return name.removeprefix("language-")[:30]
    return ""


def _read_pdf(body: bytes) -> Text:
    import logging  # noqa: PLC0415

    from pypdf import PdfReader  # noqa: PLC0415

    logging.disable()
    try:
        reader = PdfReader(io.BytesIO(body), strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            return Text(error="The PDF is locked with a password.")
        title = str(reader.metadata.title or "").strip()[:500] if reader.metadata else ""
        return _text_of_pages(reader, title)
    except MemoryError:
        raise
    except Exception as error:  # Whatever a damaged file makes the parser stumble over.
        return Text(error=f"The PDF is damaged ({type(error).__name__}).")


def _text_of_pages(reader: Any, title: str) -> Text:
    texts: list[str] = []
    length = number = 0
    count = len(reader.pages)
    for number in range(1, count + 1):
        text = reader.pages[number - 1].extract_text().strip()
        if text:
            texts.append(f"[Page {number}]\n\n{text}")
        length += len(text)
        if length > MAX_CHARACTERS or time.process_time() > _PDF_CPU_S:
            break
    if not texts:
        return Text(error=f"The PDF has no text on its {count} pages; it may be a scan.")
    note = f"Only the first {number} of its {count} pages were read." if number < count else ""
    return Text("\n\n".join(texts), title or None, note=note)


if __name__ == "__main__":
    main()
