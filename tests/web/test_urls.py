"""Addresses: two spellings of one are the same, and what is added to one makes another."""

import pytest

from handinger.web import urls


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://example.com", "example.com/"),
        ("http://example.com/", "example.com/"),
        ("HTTPS://Example.COM/Path", "example.com/Path"),  # only the host has no case
        ("https://example.com./a", "example.com/a"),
        ("https://example.com:443/a", "example.com/a"),
        ("http://example.com:443/a", "example.com:443/a"),
        ("https://example.com/a?x=1#part", "example.com/a?x=1"),
        ("https://example.com/a?", "example.com/a"),
        ("https://bücher.example/", "xn--bcher-kva.example/"),
        ("https://example.com/Schrödinger", "example.com/Schr%C3%B6dinger"),
        ("https://example.com/Schr%C3%B6dinger", "example.com/Schr%C3%B6dinger"),
        ("https://example.com/a%2Fb", "example.com/a%2Fb"),  # not the same as a/b
        ("http://[::1]:8080/x", "[::1]:8080/x"),
    ],
)
def test_a_url_has_one_address(url: str, address: str):
    assert urls.address(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "//example.com/",
        "example.com",
        "https://",
        "https://user:secret@example.com/",
        "https://user@example.com/",
        "https://@example.com/",
        "https://example.com:port/",
        "https://example.com:99999/",
        "http://[::1/",
        "https://example.com/" + "a" * 2048,
        "",
    ],
)
def test_what_is_no_plain_web_address_has_none(url: str):
    assert urls.address(url) is None


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("See https://example.com/a.", "example.com/a"),
        ("(https://example.com/a)", "example.com/a"),
        ("[A](https://example.com/a)", "example.com/a"),
        ("[A](https://example.com/a_(b))", "example.com/a_(b)"),
        ("<https://example.com/a>", "example.com/a"),
        ("'https://example.com/a', 'https://example.com/b'", "example.com/a"),
        ("**https://example.com/a**", "example.com/a"),
        ("Is it https://example.com/a?", "example.com/a"),
        ("https://example.com/a?b=1&c=2", "example.com/a?b=1&c=2"),
        ('{"url":"https://example.com/a"}', "example.com/a"),
    ],
)
def test_a_url_is_found_in_running_text(text: str, address: str):
    assert address in urls.addresses_in(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("Summarise example.com please", "example.com/"),
        ("Look at www.example.com/docs/a.html, then answer.", "www.example.com/docs/a.html"),
        ("What does example.com say?", "example.com/"),
    ],
)
def test_a_person_may_leave_out_the_scheme(text: str, address: str):
    assert address in urls.addresses_named(text)
    assert address not in urls.addresses_in(text)


def test_a_mail_address_names_no_page():
    assert urls.addresses_named("Write to ada@example.com about it") == set()


@pytest.mark.parametrize(
    "made_up",
    [
        "https://example.com/a?stolen=1",
        "https://example.com/a/stolen",
        "https://stolen.example.com/a",
        "https://example.com.evil.test/a",
        "https://example.com/astolen",
        "https://example.com:8443/a",
    ],
)
def test_an_address_with_something_added_is_another(made_up: str):
    seen = urls.addresses_named("Read https://example.com/a and example.com")
    assert urls.address(made_up) not in seen


def test_a_page_of_nothing_but_urls_is_read_in_time():
    text = "https://example.com/'" * 200_000 + "a." * 500_000
    assert "example.com/" in urls.addresses_named(text)


def test_halves_of_characters_and_nul_are_no_error():
    assert urls.address("https://example.com/\ud800\0") == "example.com/%3F%00"
    assert "example.com/" in urls.addresses_named("https://example.com/ \ud800 \0")
