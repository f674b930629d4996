"""pytest-golden: machines of golden's images as fixtures. Loaded by pytest through its entry point.

    golden_image      which image: --golden-image, `golden_images` in the ini file, or @pytest.mark.golden_image(…)
    golden_clone      a machine of that image; new for each test, or for each module, class, … (--golden-scope)
    golden_cluster    several machines, by their roles: @pytest.mark.golden_cluster("engine", host0="other-image");
                      with lan=True they see each other by these
    golden_machines   a factory, for fixtures of your own with scopes of their own

A failed test's report has the console and the journal of each machine that it used.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# Every pytest run of an environment that has golden loads this module: what costs time is imported in the fixtures.
if TYPE_CHECKING:
    from builder.harness.guest import Guest
    from builder.harness.lab import Lab, Wanted
    from builder.harness.vigil import Vigil

_SCOPES = ("function", "class", "module", "package", "session")
_DEFAULT_ROLES = ("first", "second")
_ATTACHED = "GOLDEN_TEST_MACHINES"

_guests = pytest.StashKey[dict[str, list["Guest"]]]()
_attached = pytest.StashKey[dict[str, "Guest"]]()

# Who follows the consoles of machines that were made here.
_vigils = pytest.StashKey[list["Vigil"]]()

# What golden has said and no report has taken along.
_said = pytest.StashKey[list[str]]()

# What reports brought: pytest does not hand the configuration to the hook that hears of them.
_heard: list[str] = []

Cluster = Mapping[str, "Guest"]
Maker = Callable[..., "AbstractContextManager[dict[str, Guest]]"]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("golden", "machines of golden's images")
    group.addoption(
        "--golden-image",
        action="append",
        metavar="IMAGE[@VERSION]",
        help="Image that golden_clone and golden_cluster are made of; may be repeated: each test then runs on each.",
    )
    group.addoption(
        "--golden-scope",
        choices=_SCOPES,
        help="How long a machine lives: for one test (function, the default), or for all of a class, module, …",
    )
    group.addoption(
        "--golden-keep-logs",
        type=Path,
        metavar="FOLDER",
        help="Also write console, journal and package list of each machine of a failed test there.",
    )
    group.addoption(
        "--golden-host-memory",
        metavar="SIZE",
        help="What all of golden's machines of this host may declare together, as '16 GiB'; else GOLDEN_HOST_MEMORY.",
    )
    parser.addini("golden_images", "Images to test on, where --golden-image names none.", type="args", default=[])
    parser.addini("golden_scope", "How long a machine lives, where --golden-scope does not say.", default="function")


def pytest_configure(config: pytest.Config) -> None:
    scope = config.getini("golden_scope")
    if scope not in _SCOPES:
        raise pytest.UsageError(f"golden_scope = {scope}: it is one of {', '.join(_SCOPES)}")
    config.stash[_guests] = {}
    config.stash[_vigils] = []
    config.stash[_said] = []
    _heard.clear()
    for line in (
        "golden_image(*images): the images that this test runs on, instead of --golden-image",
        "golden_cluster(*roles, lan=False, **images): the machines of golden_cluster; role=IMAGE for another image",
    ):
        config.addinivalue_line("markers", line)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test once for each image. An image's tests stand together, so that long-lived machines are made once."""
    if "golden_image" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("golden_image")
    images = list(marker.args) if marker else _configured(metafunc.config)
    if images:
        metafunc.parametrize("golden_image", images, indirect=True, scope="session")


def _configured(config: pytest.Config) -> list[str]:
    return list(config.getoption("golden_image") or config.getini("golden_images"))


def _scope(fixture_name: str, config: pytest.Config) -> Any:
    return config.getoption("golden_scope") or config.getini("golden_scope")


# --- fixtures ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def golden_lab(pytestconfig: pytest.Config) -> Lab:
    """Where machines come from: the project of GOLDEN_FILE, else the images that are installed on this host."""
    from builder.harness.lab import open_lab
    from builder.progress import Notes

    key, images = os.environ.get("GOLDEN_SSH_KEY"), os.environ.get("GOLDEN_IMAGES_DIR")
    state = os.environ.get("GOLDEN_STATE")
    with _errors_for_people():
        return open_lab(
            file=Path(os.environ.get("GOLDEN_FILE") or "golden.toml").absolute(),
            state=Path(state) if state else None,
            images=Path(images) if images else None,
            key=Path(key).absolute() if key else None,
            reporter=Notes(pytestconfig.stash[_said].append),
            is_warm=os.environ.get("GOLDEN_WARM") != "0",
            host_mib=_host_mib(pytestconfig),
        )


def _host_mib(config: pytest.Config) -> int | None:
    from builder.units import MIB, parse_size

    text = config.getoption("golden_host_memory") or os.environ.get("GOLDEN_HOST_MEMORY")
    try:
        return parse_size(text) // MIB if text else None
    except ValueError as error:
        raise pytest.UsageError(f"--golden-host-memory, or GOLDEN_HOST_MEMORY: {error}") from error


@pytest.fixture(scope="session")
def golden_image(request: pytest.FixtureRequest) -> str:
    """The image under test, IMAGE or IMAGE@VERSION."""
    image = getattr(request, "param", None)
    if image is None:
        given = _given(request.config)
        if not given:
            pytest.fail("no image is named: --golden-image IMAGE, or golden_images in the ini file", pytrace=False)
        image = next(iter(given.values())).image
    return str(image)


@pytest.fixture(scope="session")
def golden_machines(request: pytest.FixtureRequest) -> Maker:
    """A function for fixtures of your own: `with golden_machines(engine="rocky9-engine") as machines: …`.

    role=IMAGE, or role=builder.harness.lab.Wanted(image=…, memory_mib=…). lan=True: they see each other by their roles.
    The machines are gone after the block.
    """
    from builder.harness.lab import Wanted

    def make(*, lan: bool = False, **wanted: str | Wanted) -> AbstractContextManager[dict[str, Guest]]:
        machines = {role: Wanted(image=one) if isinstance(one, str) else one for role, one in wanted.items()}
        return _running(request, _on_lan(machines) if lan else machines)

    return make


@pytest.fixture(scope=_scope)
def golden_clone(request: pytest.FixtureRequest, golden_image: str) -> Iterator[Guest]:
    """A fresh machine of the image under test that answers on SSH; `golden_clone.host` is a testinfra host."""
    from builder.harness.lab import Wanted

    with _running(request, {"clone": Wanted(image=golden_image)}) as guests:
        yield next(iter(guests.values()))


@pytest.fixture(scope=_scope)
def golden_cluster(request: pytest.FixtureRequest, golden_image: str) -> Iterator[Cluster]:
    """Fresh machines by their roles, booted at the same time; two of the image under test unless a mark says else.

    With a scope above function, the mark stands on what has that scope: `pytestmark` for a module.
    """
    from builder.harness.lab import Wanted

    marker = request.node.get_closest_marker("golden_cluster")
    roles = dict.fromkeys(marker.args, golden_image) | marker.kwargs if marker else {}
    lan = roles.pop("lan", False) is True
    wanted = {
        role: Wanted(image=image) for role, image in (roles or dict.fromkeys(_DEFAULT_ROLES, golden_image)).items()
    }
    with _running(request, _on_lan(wanted) if lan else wanted) as guests:
        yield guests


# --- making machines, and telling of them -------------------------------------------------------------------------


def _on_lan(wanted: Mapping[str, Wanted]) -> dict[str, Wanted]:
    return {role: one.model_copy(update={"lan": True}) for role, one in wanted.items()}


@contextlib.contextmanager
def _running(request: pytest.FixtureRequest, wanted: Mapping[str, Wanted]) -> Iterator[dict[str, Guest]]:
    """`Lab.running`, known to the report of whatever test uses the machines; those that are given are not made."""
    known, node = request.config.stash[_guests], request.node.nodeid
    given = _given(request.config)
    with contextlib.ExitStack() as stack:
        if given:
            guests = _chosen(given, wanted)
        else:
            with _errors_for_people():
                guests = stack.enter_context(request.getfixturevalue("golden_lab").running(wanted))
            stack.enter_context(_followed(guests, request.config))
        known.setdefault(node, []).extend(guests.values())
        try:
            yield guests
        finally:
            known[node] = [guest for guest in known[node] if guest not in guests.values()]


@contextlib.contextmanager
def _followed(guests: Mapping[str, Guest], config: pytest.Config) -> Iterator[None]:
    from builder.harness.vigil import Vigil

    with Vigil(guests.values()) as vigil:
        config.stash[_vigils].append(vigil)
        try:
            yield
        finally:
            config.stash[_vigils].remove(vigil)


def _deaths(item: pytest.Item) -> list[str]:
    """Of the machines that a test uses, what each died of."""
    vigils = item.config.stash[_vigils]
    return [why for guest in _used_by(item) for vigil in vigils if (why := vigil.why(guest)) is not None]


def _given(config: pytest.Config) -> dict[str, Guest]:
    """Machines that `golden test` has made for this very run."""
    if _attached not in config.stash:
        from pydantic import TypeAdapter

        from builder.harness.guest import Address, Guest

        path = os.environ.get(_ATTACHED)
        addresses = TypeAdapter(list[Address]).validate_json(Path(path).read_bytes()) if path else []
        config.stash[_attached] = {address.name: Guest(address) for address in addresses}
    return config.stash[_attached]


def _chosen(given: dict[str, Guest], wanted: Mapping[str, Wanted]) -> dict[str, Guest]:
    if list(wanted) == ["clone"]:
        return {"clone": next(iter(given.values()))}
    missing = [role for role in wanted if role not in given]
    if any(one.lan for one in wanted.values()) and not all(guest.address.lan_mac for guest in given.values()):
        pytest.fail("this test's declaration has no 'lan = true'", pytrace=False)
    if missing and tuple(wanted) != _DEFAULT_ROLES:
        pytest.fail(f"this test's declaration has no machine '{missing[0]}'; it has {', '.join(given)}", pytrace=False)
    return dict(given) if missing else {role: given[role] for role in wanted}


@contextlib.contextmanager
def _errors_for_people() -> Iterator[None]:
    """golden's errors as golden prints them; pytest's account of where they came from helps nobody."""
    from builder.errors import GoldenError

    try:
        yield
    except GoldenError as error:
        rows = [f"  {label}: {text}" if label else f"  {text}" for label, text in error.rows()]
        pytest.fail("\n".join([f"golden: {error.what}", *rows]), pytrace=False)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """No test waits for a machine that died under the one before."""
    if died := _deaths(item):
        pytest.fail("\n".join(f"golden: {why}" for why in died), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Console and journal, while the machine is there: its fixture is torn down after the report of the call."""
    report = yield
    # An attribute of the report goes along from pytest-xdist's workers.
    said = item.config.stash[_said]
    report.__dict__["golden_notes"] = said[:]
    said.clear()
    if not report.failed or report.when == "teardown":
        return report
    for why in _deaths(item):
        report.sections.append(("golden", why))
    folder = item.config.getoption("golden_keep_logs")
    for guest in _used_by(item):
        texts = {"console": guest.console(), "journal": guest.journal()}
        if folder:
            texts["packages"] = guest.packages()
            place = folder / "".join(c if c.isalnum() or c in "-_." else "_" for c in item.nodeid)
            place.mkdir(parents=True, exist_ok=True)
        for what, text in texts.items():
            report.sections.append((f"golden {what} of {guest.name} ({guest.image})", _end_of(text)))
            if folder:
                (place / f"{guest.name}-{what}.log").write_text(text, encoding="utf-8")
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """In the process that the user sees, and in pytest-xdist's workers, which nobody does."""
    _heard.extend(getattr(report, "golden_notes", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What golden had to say beside the results: that it waited for memory, that a machine booted and why."""
    if _heard:
        terminalreporter.section("golden")
        for text in dict.fromkeys(_heard):
            terminalreporter.write_line(text)


def _used_by(item: pytest.Item) -> list[Guest]:
    """The machines whose fixtures live for the test: of itself, its class, its module, … its session."""
    owners = {node.nodeid for node in item.listchain()}
    return [guest for owner, guests in item.config.stash[_guests].items() if owner in owners for guest in guests]


def _end_of(text: str, lines: int = 200) -> str:
    kept = text.splitlines()
    return "\n".join([f"… {len(kept) - lines} lines before", *kept[-lines:]] if len(kept) > lines else kept)
