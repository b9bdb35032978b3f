"""The process that reads pages: it starts one of its own for each, from which text comes back.

A page is written by strangers, so what parses it runs alone: with little memory, little time and no
secret. It is forked from a process that has the parsers loaded, as to load them takes longer than
most pages. Started by `reading`; imports nothing of the server.
"""

import contextlib
import io
import json
import logging
import os
import re
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urljoin

from handinger.web import urls

MAX_CHARACTERS = 2_000_000

_PDF_SHARE = 0.6  # of a page's time, after which no further page of a PDF is begun
_NICENESS = 10
_LAST_DESCRIPTOR = 4096
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
# Of the head only these: where a page writes no `body`, the parser takes its content for head.
_LEFT_OUT = (
    "script", "style", "template", "noscript", "svg", "iframe", "object", "canvas", "button",
    "input", "select", "textarea", "title", "meta", "link", "base",
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


@dataclass(frozen=True, slots=True)
class Limits:
    """What one page may take."""

    memory_bytes: int = 1024**3
    cpu_s: int = 20


class Nursery:
    """Starts a process for each page that it is handed, and says how each has ended.

    What comes over the channel is one byte with two files: the page, and a socket. Over the socket
    the process gets one line that describes the page, and answers with its text as JSON; the last
    byte, its exit status, is from here. Whoever closes the socket before has lost interest.
    """

    def __init__(self, channel: socket.socket, limits: Limits) -> None:
        self._channel = channel
        self._limits = limits
        self._answers: dict[int, socket.socket] = {}  # by the process that writes there
        self._ended: dict[int, int] = {}  # exit statuses that are not told yet

    def serve(self) -> None:
        """Return when the server has gone, and with it every process that was started here."""
        woken, wake = os.pipe()
        os.set_blocking(woken, False)
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        try:
            while True:
                ready = self._wait(woken)
                if self._channel.fileno() in ready and not self._start():
                    return
                with contextlib.suppress(BlockingIOError):
                    os.read(woken, 4096)
                self._reap()
                self._attend(ready)
        finally:
            for process in self._answers.keys() - self._ended.keys():
                os.kill(process, signal.SIGKILL)

    def _wait(self, woken: int) -> dict[int, int]:
        """What has happened, by descriptor."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(woken, select.POLLIN)
        for process, answer in self._answers.items():
            # That the other side has closed it is told in any case.
            poll.register(answer, select.POLLOUT if process in self._ended else 0)
        return dict(poll.poll())

    def _start(self) -> bool:
        """Start a process for the next page; False if there will be none."""
        message, descriptors, _, _ = socket.recv_fds(self._channel, 1, 2)
        if not message:
            return False
        page, answer = descriptors
        process = os.fork()
        if process == 0:
            status = 1
            try:
                _become(page, answer, self._limits)
                status = 0
            except MemoryError:
                status = os.EX_TEMPFAIL
            finally:
                os._exit(status)
        os.close(page)
        self._answers[process] = socket.socket(fileno=answer)
        return True

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                process, status = os.waitpid(-1, os.WNOHANG)
                if process == 0:
                    return
                code = os.waitstatus_to_exitcode(status)
                over = code in (-signal.SIGXCPU, -signal.SIGKILL)
                self._ended[process] = os.EX_TEMPFAIL if over else min(abs(code), 127)

    def _attend(self, ready: "dict[int, int]") -> None:
        for process, answer in list(self._answers.items()):
            event = ready.get(answer.fileno(), 0)
            status = self._ended.get(process)
            if event & (select.POLLHUP | select.POLLERR):
                if status is None:
                    os.kill(process, signal.SIGKILL)
                    continue  # Until it is reaped.
            elif status is None or not event:
                continue
            else:
                with contextlib.suppress(OSError):
                    answer.send(bytes([status]), socket.MSG_DONTWAIT)
            answer.close()
            del self._answers[process], self._ended[process]


def _become(page: int, answer: int, limits: Limits) -> None:
    """Read the page, in the process that was made for it."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.dup2(page, 0)
    os.dup2(answer, 1)
    # The server's channel, and what belongs to other pages.
    os.closerange(3, _LAST_DESCRIPTOR)
    _limit(limits)
    with open(1, "r+b", buffering=0, closefd=False) as file:
        spec = json.loads(_line(file))
        with open(0, "rb", closefd=False) as body:
            content = body.read()
        told: list[Text] = []
        # A thread, because only a thread's stack can be made large enough for deep pages.
        threading.stack_size(_STACK_BYTES)
        sys.setrecursionlimit(_DEPTH)
        thread = threading.Thread(target=lambda: told.append(read(content, **spec)))
        thread.start()
        thread.join()
        text = told[0] if told else Text(error="It could not be parsed.")
        # Halves of characters, as some PDFs have them, are no text.
        told_json = json.dumps(asdict(text), ensure_ascii=False).encode(errors="replace")
        rest = memoryview(told_json)
        while rest:
            rest = rest[file.write(rest) :]


def _line(file: Any) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        piece: bytes = file.read(64 * 1024)
        if not piece:
            raise EOFError
        line += piece
    return line


def _limit(limits: Limits) -> None:
    for kind, soft, hard in (
        (resource.RLIMIT_CPU, limits.cpu_s, limits.cpu_s + 3),
        (resource.RLIMIT_AS, limits.memory_bytes, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, 64, 64),
    ):
        with contextlib.suppress(ValueError, OSError):  # Not every system knows every limit.
            resource.setrlimit(kind, (soft, hard))


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
    return soup


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
    from pypdf import PdfReader  # noqa: PLC0415
    from pypdf.errors import LimitReachedError  # noqa: PLC0415

    try:
        reader = PdfReader(io.BytesIO(body), strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            return Text(error="The PDF is locked with a password.")
        title = str(reader.metadata.title or "").strip()[:500] if reader.metadata else ""
        return _text_of_pages(reader, title)
    except MemoryError:
        raise
    except LimitReachedError:
        return Text(error="It unpacks to more than a PDF may.")
    except Exception as error:  # Whatever a damaged file makes the parser stumble over.
        return Text(error=f"The PDF is damaged ({type(error).__name__}).")


def _text_of_pages(reader: Any, title: str) -> Text:
    texts: list[str] = []
    length = number = 0
    count = len(reader.pages)
    until_s = resource.getrlimit(resource.RLIMIT_CPU)[0] * _PDF_SHARE
    if until_s < 0:  # There is no limit.
        until_s = float("inf")
    for number in range(1, count + 1):
        text = reader.pages[number - 1].extract_text().strip()
        if text:
            texts.append(f"[Page {number}]\n\n{text}")
        length += len(text)
        if length > MAX_CHARACTERS or time.process_time() > until_s:
            break
    if not texts:
        return Text(error=f"The PDF has no text on its {count} pages; it may be a scan.")
    note = f"Only the first {number} of its {count} pages were read." if number < count else ""
    return Text("\n\n".join(texts), title or None, note=note)


def main() -> None:
    """Called with the limits as JSON, and with the channel as standard input."""
    logging.disable()
    channel = socket.socket(fileno=os.dup(0))
    limits = Limits(**json.loads(sys.argv[1]))
    os.nice(_NICENESS)
    _load_parsers()
    Nursery(channel, limits).serve()


def _load_parsers() -> None:
    _read_html("<p>With this, all that HTML needs is there.</p>", "")
    _read_pdf(b"%PDF-")


if __name__ == "__main__":
    main()
