"""How the demo model takes prompts apart, finds tables, and shortens texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handinger.agent.demo import clauses, prompt, spans, summary, table
from handinger.agent.demo.prompt import Document, Prompt


def test_a_prompt_without_texts_is_all_instruction():
    assert prompt.split("Do this.\nAnd that.") == Prompt("Do this.\nAnd that.", ())


@pytest.mark.parametrize(
    ("text", "instruction", "documents"),
    [
        # A fenced block between two requests.
        ("Look:\n```\na\n```\nSum up.", "Look:\nSum up.", [Document("", "a")]),
        # Its name is the word of the fence or the line above.
        ("Look:\n```notes.md\na\n```", "Look:", [Document("notes.md", "a", "notes.md")]),
        ("Look:\nnotes.md:\n```py\na\n```", "Look:\nnotes.md:", [Document("notes.md", "a", "py")]),
        # A fence with a word inside opens an inner block.
        ("Look:\n```\na\n```sh\nb\n```\nc\n```", "Look:", [Document("", "a\n```sh\nb\n```\nc")]),
        # All that follows a rule is text, further rules included.
        ("Look.\n---\na\n---\nb", "Look.", [Document("", "a\n---\nb")]),
        # Labels, with and without fences; remarks are no part of a name.
        (
            "Look.\nFile: a.md\n# A\n\nPage: https://b.c (cut)\n```\nB\n```",
            "Look.",
            [Document("a.md", "# A"), Document("https://b.c", "B")],
        ),
        ("Look.\n=== a.md ===\nA", "Look.", [Document("a.md", "A")]),
        # The last short fence closes a labelled text that has blocks of its own.
        (
            "Look.\nFile: a.md\n```\nA\n```\nrun\n```\nB\n```\nThen stop.",
            "Look.\nThen stop.",
            [Document("a.md", "A\n```\nrun\n```\nB")],
        ),
        # In a longer fence nothing is a label.
        (
            "Look.\nFile: a\n````\nFile: b\n```\nB\n````",
            "Look.",
            [Document("a", "File: b\n```\nB")],
        ),
        # A request may also stand below the text.
        ("File: a.md\nAll of it.\n---\nSum it up.", "Sum it up.", [Document("a.md", "All of it.")]),
        # Text behind a colon.
        (
            "Summarise this: one two three four five six seven eight.",
            "Summarise this",
            [Document("", "one two three four five six seven eight.")],
        ),
        # Rows of a table.
        ("Total:\na,b\nx,1\ny,2\nThanks", "Total:\nThanks", [Document("", "a,b\nx,1\ny,2")]),
    ],
)
def test_texts_are_told_from_the_instruction(
    text: str, instruction: str, documents: list[Document]
):
    assert prompt.split(text) == Prompt(instruction, tuple(documents))


@given(st.lists(st.sampled_from(["```", "````", "```sh", "---", "File: a", "x", ""])))
def test_any_mixture_of_marks_is_taken_apart(lines: list[str]):
    split = prompt.split("\n".join(lines))
    assert all(document.text.strip() for document in split.documents)


def test_an_instruction_is_cut_into_clauses_at_words_that_say_what_to_do():
    found = clauses.find(
        'Hello! Please read a.md, summarise it and write "then run" to b.md. Then compute 1+1?'
    )
    assert [(clause.family, clause.text) for clause in found] == [
        ("greeting", "Hello"),
        ("read", "read a.md"),
        ("summarise", "summarise it"),
        ("write", 'write "then run" to b.md'),
        ("compute", "compute 1+1"),
    ]
    assert found[-1].opening == "then"
    assert found[-1].is_question


def test_paths_pages_and_addresses_are_told_apart():
    text = "See `my file`, notes/a.md, https://x.org/b.html, x.org, bob@x.org, e.g. 3.14 and .env."
    assert spans.paths(text) == ["notes/a.md", ".env"]
    assert spans.urls(text) == ["https://x.org/b.html"]
    assert "x.org" in spans.domains(text)
    assert spans.emails(text) == ["bob@x.org"]
    assert spans.paths('a file called "my notes.txt"') == ["my notes.txt"]
    assert spans.paths("a file called `Makefile`") == ["Makefile"]


@pytest.mark.parametrize(
    "text",
    [
        "item,price\npen,1.50\nink,2.25",
        "item;price\npen;$1.50\nink;$2.25",
        "item\tprice\npen\t1.50\nink\t2.25",
        "Prices:\n\n| item | price |\n| --- | ---: |\n| pen | 1.50 |\n| ink | 2.25 |\n\nThe end.",
    ],
)
def test_a_table_is_found_in_any_of_its_forms(text: str):
    found = table.find(text)
    assert found is not None
    assert (found.names, found.rows) == (("item", "price"), 2)
    assert table.totals(found).splitlines()[2:] == ["| price | 2 | 3.75 | 1.875 | 1.5 | 2.25 |"]


def test_only_the_columns_that_are_named_are_added_up():
    found = table.find("a,price,count\nx,1,2\ny,3,4")
    assert found is not None
    assert "| count |" not in table.totals(found, "the total of the price column")
    assert "| count |" in table.totals(found, "all totals")


def test_prose_is_no_table():
    assert table.find("First, second.\nThird, fourth.") is None


def test_a_summary_chooses_what_the_text_is_about_and_keeps_its_order():
    text = (
        "Otters live in rivers. They were painted green once. "
        "Rivers feed otters with fish, and otters keep rivers clean. "
        "Somebody sneezed. Otters and rivers need clean water and fish. "
        "The end came quickly for nobody in particular."
    )
    summarised = summary.summarise(Document("otters.txt", text), sentences=3)
    assert [line for line in summarised.splitlines() if line.startswith("- ")] == [
        "- Otters live in rivers.",
        "- Rivers feed otters with fish, and otters keep rivers clean.",
        "- Otters and rivers need clean water and fish.",
    ]


def test_sentences_lose_their_markup_but_keep_their_code_and_abbreviations():
    text = (
        "Call **`f(**kwargs)`**, e.g. with [a link](https://x.y) to Dr. Who.\n![badge](z.svg)\n<br>"
    )
    summarised = summary.summarise(Document("", text))
    assert "- Call `f(**kwargs)`, e.g. with a link to Dr. Who." in summarised


def test_an_outline_shows_each_heading_with_the_sentence_that_opens_its_section():
    text = "Top\n===\nIntro here. More.\n\n## Part #\n- item goes\n  on here\n\n### Empty\n"
    outline = summary.summarise(Document("a.md", text), style="outline")
    assert outline.splitlines()[-3:] == [
        "- Top: Intro here.",
        "  - Part: item goes on here",
        "    - Empty",
    ]


def test_a_long_text_is_cut_and_the_summary_says_so():
    text = "Some words again. " * 20_000
    assert "only the first 200,000 characters were read" in summary.summarise(Document("", text))


@given(st.text(), st.sampled_from(["summary", "points", "outline"]))
def test_any_text_has_a_summary(text: str, style: summary.Style):
    assert summary.summarise(Document("x", text), style=style).startswith("**")
