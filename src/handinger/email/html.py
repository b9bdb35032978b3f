"""HTML of mails: to text on the way in, from an answer's Markdown on the way out."""

import re
from html import unescape

import nh3
from bs4 import BeautifulSoup, Tag
from markdownify import MarkdownConverter

_INVISIBLE = re.compile(r"display\s*:\s*none|font-size\s*:\s*0(?![.\d])|mso-hide\s*:\s*all", re.I)
_BLANK_LINES = re.compile(r"\n{3,}")
# Beyond them the page loses its structure, but no word: the library's time grows with the depth.
_MAX_TAGS = 20_000
_MAX_DEPTH = 100
_MAX_CHARACTERS = 1_000_000
_LONG_BLANKS = re.compile(r"(?<!\s)\s{200,}")
_TAGS = nh3.ALLOWED_TAGS | {
    "address", "article", "aside", "big", "body", "button", "center", "dd", "dl", "dt", "fieldset",
    "figure", "font", "footer", "form", "head", "header", "html", "label", "legend", "main", "nav",
    "section", "tfoot", "u",
}  # fmt: skip


def html_to_text(html: str) -> str:
    """What a reader sees, as Markdown; quoted parts are marked with `>`."""
    html = _well_formed(html)
    if html.count("<") <= _MAX_TAGS:
        soup = BeautifulSoup(html, "html.parser")
        elements = soup.find_all(True)
        if _depth(elements) <= _MAX_DEPTH:
            _drop_invisible(elements)
            converter = _Converter(heading_style="ATX", bullets="-", escape_misc=False)
            return _tidy(converter.convert_soup(soup))
    return _tidy(unescape(nh3.clean(html, tags=set())))


def _well_formed(html: str) -> str:
    """The same page, closed and nested as it should be, without what no reader sees.

    Python's own parser takes time with the square of what is never closed; this one does not.
    """
    cleaned = nh3.clean(
        _LONG_BLANKS.sub(" ", html),
        tags=_TAGS,
        attributes={"*": {"style", "href", "alt", "title", "start", "type"}},
        clean_content_tags={"style", "script", "title", "template", "noscript"},
        link_rel=None,
    )
    return cleaned[:_MAX_CHARACTERS]


def _depth(elements: list[Tag]) -> int:
    depths: dict[int, int] = {}
    for element in elements:  # parents come first
        depths[id(element)] = depths.get(id(element.parent), 0) + 1
    return max(depths.values(), default=0)


def _drop_invisible(elements: list[Tag]) -> None:
    """Trackers, and previews that only a list of mails shows."""
    for element in elements:
        if element.decomposed:
            continue
        style = str(element.get("style") or "")
        if element.name in ("style", "script", "head", "title", "template", "noscript") or (
            style and _INVISIBLE.search(style)
        ):
            element.decompose()


def _tidy(text: str) -> str:
    lines = (line.rstrip() for line in text.replace("\xa0", " ").split("\n"))
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()


class _Converter(MarkdownConverter):
    """Markdown for a reader of text: pictures only by their description."""

    def convert_img(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        alt = str(el.get("alt") or "").strip()
        return f"[{alt}]" if alt else ""
