"""The proxies of golden's environment, as guests reach them. What golden itself downloads is requests' business."""

from __future__ import annotations

import ipaddress
import shlex
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

from requests.utils import should_bypass_proxies


def for_guest(host: str, *, with_passwords: bool) -> dict[str, str]:
    """`http_proxy`, `https_proxy`, `no_proxy` for a guest that sees this host's loopback at `host`; none if not set.

    `host` itself is excepted from proxies: golden serves folders there. with_passwords: only for places that nobody
    reads, so neither for arguments nor logs.
    """
    found = getproxies_environment()
    guests = {
        f"{kind}_proxy": _seen_from_guest(found[kind], host=host, with_passwords=with_passwords)
        for kind in ("http", "https")
        if found.get(kind)
    }
    if guests:
        guests["no_proxy"] = ",".join(part for part in (found.get("no", ""), host) if part)
    return guests


def exports(host: str) -> str:
    """The same as lines for a shell, without passwords; empty if there is no proxy."""
    variables = for_guest(host, with_passwords=False)
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def for_address(url: str, *, host: str) -> str | None:
    """The proxy by which a guest is to read `url`, None if there is none or no_proxy excepts it; without a login.

    A login would be on kernel lines, in kickstarts (which Anaconda leaves in /root) and in lists of processes.
    """
    parts = urlsplit(url)
    if parts.hostname in (None, host) or should_bypass_proxies(url, no_proxy=None):
        return None
    return for_guest(host, with_passwords=False).get(f"{parts.scheme}_proxy")


def has_login(url: str) -> bool:
    """Whether the proxy for `url`, as golden's environment has it, asks for a name: guests are not told that."""
    found = getproxies_environment().get(urlsplit(url).scheme, "")
    return "@" in urlsplit(found if "://" in found else f"http://{found}").netloc


def _seen_from_guest(url: str, *, host: str, with_passwords: bool) -> str:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    login, at, address = parts.netloc.rpartition("@")
    if _is_loopback(parts.hostname or ""):
        address = f"{host}:{parts.port}" if parts.port else host
    return parts._replace(netloc=f"{login}{at}{address}" if with_passwords else address).geturl()


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
