"""A worker's hands at once: a page, its table, Python in the sandbox, files, a source."""

import struct
import zlib
from collections.abc import Iterator

import pytest

from tests.contract.conftest import Connect, StartServer
from tests.contract.streams import check_same, folded, post
from tests.contract.wire import worker_in
from tests.contract.world import Api, Scripts
from tests.support.hosts import require_sandboxes
from tests.support.model_server import Step, ToolCall
from tests.support.site import Reply, Site

PAGE = """<!doctype html><html lang="en"><head><title>Pens sold</title></head><body>
<nav><a href="/">Home</a></nav>
<main><h1>Pens sold</h1><p>By city, in the last quarter. Blue pens were sold most often in Lima.</p>
<table><thead><tr><th>City</th><th>Blue</th><th>Red</th></tr></thead><tbody>
<tr><td>Lima</td><td>40</td><td>2.5</td></tr>
<tr><td>Oslo</td><td>12</td><td>7.25</td></tr>
<tr><td>Pune</td><td>8</td><td>30.25</td></tr>
</tbody></table></main></body></html>"""

# What a model would write: nothing but the standard library, because not every host has more.
SCRIPT = r"""
import glob, struct, zlib

(page,) = glob.glob("scratchpad/web/*.md")
rows = [
    [cell.strip() for cell in line.strip("| \n").split("|")]
    for line in open(page) if line.startswith("|")
]
head, cities = rows[0], rows[2:]
totals = [sum(float(row[column]) for row in cities) for column in (1, 2)]

with open("report.md", "w") as report:
    report.write("# Pens sold\n\n| Colour | Total |\n| --- | --- |\n")
    for name, total in zip(head[1:], totals):
        report.write(f"| {name} | {total:g} |\n")

width, height, colours = 60, 40, [(40, 80, 200), (200, 40, 40)]
tops = [round(height * (1 - total / max(totals))) for total in totals]
lines = b""
for y in range(height):
    lines += b"\0"
    for x in range(width):
        bar = x * 2 // width
        lines += bytes(colours[bar] if y >= tops[bar] else (255, 255, 255))

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

with open("chart.png", "wb") as chart:
    chart.write(b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b""))
print(dict(zip(head[1:], totals)))
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site({"/sales.html": Reply(PAGE)}) as site:
        yield site


def make_api(new_server: StartServer, connect: Connect, site: Site, name: str, **more: str) -> Api:
    server = new_server(name, {"HANDINGER_FETCH_ALLOW_PRIVATE": f"127.0.0.1:{site.port}", **more})
    return connect(server, server.key)


@pytest.fixture(scope="module")
def research(new_server: StartServer, connect: Connect, site: Site) -> Api:
    return make_api(new_server, connect, site, "research")


@pytest.fixture(scope="module")
def demo(new_server: StartServer, connect: Connect, site: Site) -> Api:
    """Of a server with the demo model."""
    return make_api(new_server, connect, site, "demo_research", HANDINGER_MODEL="demo")


def read(api: Api, worker_id: str, path: str) -> bytes:
    answer = api.client.get(f"/api/workers/{worker_id}/files/{path}")
    assert answer.status_code == 200, answer.text
    return answer.content


def size_of_png(content: bytes) -> tuple[int, int]:
    """Width and height, if it is a PNG whose pixels can be unpacked."""
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    start = content.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", content[start - 8 : start - 4])
    assert len(zlib.decompress(content[start : start + length])) == height * (1 + 3 * width)
    return width, height


def test_a_report_and_a_chart_of_a_pages_table(research: Api, scripts: Scripts, site: Site):
    require_sandboxes()
    url = f"{site.origin}/sales.html"
    scripted = scripts(
        Step(text="I fetch the page.", tool_calls=[ToolCall("web_fetch", {"url": url})]),
        Step(tool_calls=[ToolCall("write_file", {"path": "scratchpad/t.py", "content": SCRIPT})]),
        Step(tool_calls=[ToolCall("run_command", {"command": "python3 scratchpad/t.py"})]),
        Step(text=f"Blue 60, red 40: see report.md and chart.png ([Pens sold]({url}))."),
    )
    stream = post(
        research,
        f"{scripted.input} Fetch {url}, extract its table, compute the totals with Python, write "
        "report.md and a chart as PNG.",
    ).read()
    worker = research.worker(stream.worker_id)

    assert worker["error"] is None
    assert {file["filename"]: file["mediaType"] for file in worker["files"]} == {
        "report.md": "text/markdown",
        "chart.png": "image/png",
    }
    report = read(research, worker["id"], "report.md").decode()
    assert "| Blue | 60 |" in report
    assert "| Red | 40 |" in report
    assert size_of_png(read(research, worker["id"], "chart.png")) == (60, 40)
    assert [(source["url"], source["title"]) for source in worker["sources"]] == [
        (url, "Pens sold")
    ]
    assert worker["output_text"].endswith(f"([Pens sold]({url})).")
    # The stream told the same: the source, both files, and all that was stored.
    told = [item.event for item in stream.received]
    assert [event["url"] for event in told if event["type"] == "source-url"] == [url]
    assert sorted(event["mediaType"] for event in told if event["type"] == "file") == [
        "image/png",
        "text/markdown",
    ]
    check_same(folded(stream), worker)


def test_the_demo_model_fetches_a_page_and_summarises_it(demo: Api, site: Site):
    url = f"{site.origin}/sales.html"
    worker = worker_in(demo.create(f"Fetch {url} and summarise it, then write it to summary.md"))
    assert worker["metadata"]["model"] == "demo"
    assert "Blue pens were sold most often in Lima" in worker["output_text"]
    assert [source["title"] for source in worker["sources"]] == ["Pens sold"]
    assert "Lima" in read(demo, worker["id"], "summary.md").decode()


def test_the_demo_model_says_what_it_can_do_of_the_whole(demo: Api, site: Site):
    """It reads the table and computes its totals; it draws nothing, and does not say it did."""
    url = f"{site.origin}/sales.html"
    worker = worker_in(
        demo.create(
            f"Fetch {url}, extract its table, compute the totals with Python, write report.md and "
            "a chart as PNG"
        )
    )
    assert [source["url"] for source in worker["sources"]] == [url]
    assert "report.md" in [file["filename"] for file in worker["files"]]
    assert not [file for file in worker["files"] if file["mediaType"] == "image/png"]
    assert "| Blue | 3 | 60 |" in read(demo, worker["id"], "report.md").decode()
    assert "I cannot draw" in worker["output_text"]
