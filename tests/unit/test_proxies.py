"""Proxies of golden's environment, as guests are told them."""

from __future__ import annotations

import pytest

from builder.tools import proxies

NAMES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "REQUEST_METHOD")


@pytest.fixture(autouse=True)
def none_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_no_proxy_is_none() -> None:
    assert proxies.for_guest("10.0.2.2", with_passwords=True) == {}
    assert proxies.exports("10.0.2.2") == ""


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:3128", "http://10.0.2.2:3128"),
        ("http://localhost:3128/", "http://10.0.2.2:3128/"),
        ("http://[::1]:3128", "http://10.0.2.2:3128"),
        ("localhost:3128", "http://10.0.2.2:3128"),
        ("http://proxy.example:3128", "http://proxy.example:3128"),
        ("http://me:secret@proxy.example:3128", "http://me:secret@proxy.example:3128"),
        ("http://me:secret@localhost:3128", "http://me:secret@10.0.2.2:3128"),
    ],
)
def test_a_proxy_on_this_host_has_another_address_in_guests(
    monkeypatch: pytest.MonkeyPatch, url: str, expected: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", url)
    monkeypatch.setenv("no_proxy", "example.org")
    found = proxies.for_guest("10.0.2.2", with_passwords=True)
    assert found == {"https_proxy": expected, "no_proxy": "example.org,10.0.2.2"}


def test_passwords_are_left_out_where_they_could_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://me:se cret@127.0.0.1:3128")
    assert proxies.exports("10.0.2.2") == "export http_proxy=http://10.0.2.2:3128\nexport no_proxy=10.0.2.2\n"


# --- for the installer


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://mirror.example/9/", "http://10.0.2.2:3128"),
        ("https://mirror.example/9/", "http://proxy.example:8080"),
        ("https://inside.example/9/", None),
        ("http://10.0.2.2:8000/", None),
        ("file:///srv/tree", None),
    ],
)
def test_an_installer_is_told_the_proxy_of_its_tree_without_a_login(
    monkeypatch: pytest.MonkeyPatch, address: str, expected: str | None
) -> None:
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:3128")
    monkeypatch.setenv("https_proxy", "http://proxy.example:8080")
    monkeypatch.setenv("no_proxy", "inside.example")
    assert proxies.for_address(address, host="10.0.2.2") == expected
    assert proxies.has_login(address) is (address.startswith("http:"))
