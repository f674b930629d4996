"""The readers of what others write, each as a function of bytes. Any error but the declared ones is a bug."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from builder import checks, checksums, config, install, packages, seal, templates, verdicts
from builder.channels import compose as composes
from builder.channels import deliveries, promotion
from builder.clones import agent, saved, snapshots
from builder.clones.leases import find, whole_leases
from builder.errors import ConfigError, ToolError, VerifyError
from builder.harness import declaration, evidence
from builder.inputs import _made
from builder.model import ImageId
from builder.package import provenance
from builder.store import Store, read_build
from builder.tools import ansible, attestation, domain, junit, kickstart, qcow2, saved_memory
from builder.tools.console import Console
from builder.units import parse_duration, parse_size
from tests.builds import make_build

Reader = Callable[[bytes, Path], None]
_KEY = "ssh-ed25519 AAAAC3Nza golden"


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


@contextlib.contextmanager
def _only(*declared: type[Exception]) -> Iterator[None]:
    with contextlib.suppress(*declared):
        yield


def project(data: bytes, folder: Path) -> None:
    """golden.toml: the user's, and of whoever sends a change to it."""
    file = folder / "golden.toml"
    file.write_bytes(data)
    with _only(ConfigError):
        found = config.load(file)
        for image in found.images.values():
            assert "/" not in image.name and image.name == image.name.strip()


def treeinfo(data: bytes, folder: Path) -> None:
    """.treeinfo of a tree that somebody else made."""
    (folder / ".treeinfo").write_bytes(data)
    with _only(ConfigError):
        install.check_tree(folder, "sandbox")


def users_kickstart(data: bytes, folder: Path) -> None:
    """A kickstart of the user's own, with what it includes; no address is asked."""
    file = folder / "own.ks"
    file.write_bytes(data.replace(b"://", b""))
    with _only(ConfigError):
        text = kickstart.flatten(file)
        kickstart.without_secrets(text)
        kickstart.shortcomings(text, version="RHEL9", name="own.ks", ssh_public_key=_KEY)
        kickstart.recommendations(text, version="RHEL9", console="console=ttyS0", name="own.ks")


def console(data: bytes, folder: Path) -> None:
    """What a guest writes to its serial console, in pieces as it comes."""
    log = folder / "console.log"
    found = Console(log)
    half = len(data) // 2
    log.write_bytes(data[:half])
    found.poll()
    with log.open("ab") as stream:
        stream.write(data[half:])
    for line in [*found.poll(), found.tail(), found.last_line]:
        assert "\x1b" not in line


def output_disk(data: bytes, folder: Path) -> None:
    """What a guest leaves on its output disk: packages, changelogs, keys."""
    file = folder / "output.raw"
    file.write_bytes(data)
    with _only(VerifyError):
        report = seal.read_report(file)
        packages.compare(["bash-5-1.x86_64"], report.packages)
        logs = folder / "logs"
        logs.mkdir(exist_ok=True)
        seal.keep_output(file, logs)


def package_list(data: bytes, folder: Path) -> None:
    """Package lists, of builds and of guests."""
    lines = _text(data).split()
    with _only(ValueError):
        packages.compare(lines[::2], lines[1::2])
    seal.read_changelogs(_text(data))
    assert all(path.startswith("/") for path in seal.read_digests(_text(data)))


def facts(data: bytes, folder: Path) -> None:
    """build.json, of this store or of a channel: no name in it leads out of a folder."""
    file = folder / "x-base-20261121.1.json"
    file.write_bytes(data)
    with _only(VerifyError):
        build = read_build(file)
        store = Store(folder / "state", "demo")
        for id in (build.id, build.parent, build.flattened):
            if id is not None:
                assert store.qcow2(id).parent == store.images and store.qcow2(id).name.startswith(id.image)


def lease(data: bytes, folder: Path) -> None:
    place = folder / "clones/web1"
    place.mkdir(parents=True, exist_ok=True)
    (place / "lease.json").write_bytes(data)
    with _only(VerifyError):
        find(folder, "web1")
    assert len(list(whole_leases(folder))) <= 1


def bundle(data: bytes, folder: Path) -> None:
    """Of a failed test, from another host: what `golden clone revive` opens lies in its folder."""
    (folder / "bundle.json").write_bytes(data)
    with _only(VerifyError):
        for machine in evidence.read(folder).machines:
            assert (folder / machine.disk).resolve().is_relative_to(folder.resolve())


def tests_declaration(data: bytes, folder: Path) -> None:
    file = folder / "golden-test.toml"
    (folder / "a.sh").touch()
    file.write_bytes(data)
    with _only(ConfigError):
        found = declaration.load(file, top=folder)
        assert all("/" not in name for name in found.roles)


def checksum_file(data: bytes, folder: Path) -> None:
    with _only(ValueError):
        assert len(checksums.sha256_of("a.iso", _text(data))) == 64


def memory_file(data: bytes, folder: Path) -> None:
    file = folder / "memory"
    file.write_bytes(data)
    with _only(VerifyError):
        saved_memory.read(file)
        saved_memory.checksum(file)
    (folder / "warm.json").write_bytes(data)
    saved.read(folder)


def image_header(data: bytes, folder: Path) -> None:
    """Of a disk image of somebody else's, before any program opens it."""
    file = folder / "disk.qcow2"
    file.write_bytes(data)
    with _only(VerifyError):
        assert qcow2.alone(file) > 0


def label(data: bytes, folder: Path) -> None:
    """Of a machine that libvirt has, perhaps not golden's."""
    with _only(VerifyError):
        domain.read_label(_text(data))


def repository(data: bytes, folder: Path) -> None:
    """When a package repository says that it was made."""
    assert isinstance(_made(_text(data)), str)


def sizes(data: bytes, folder: Path) -> None:
    for parse in (parse_size, parse_duration):
        with _only(ValueError):
            assert parse(_text(data)) >= 0


def kickstart_template(data: bytes, folder: Path) -> None:
    """A kickstart template of a project, or a fragment of one."""
    (folder / "own.ks.j2").write_text('{% include "part.ks.j2" %}\n')
    (folder / "part.ks.j2").write_bytes(data)
    with _only(ConfigError):
        text = templates.render([folder, templates.shared("kickstarts")], "own.ks.j2", image="a-b", title="A")
        kickstart.validate(text, version="RHEL9", name="own.ks")


def kickstart_part(data: bytes, folder: Path) -> None:
    """What a user's kickstart includes."""
    (folder / "part.ks").write_bytes(data.replace(b"://", b""))
    (folder / "whole.ks").write_text("%include part.ks\npoweroff\n")
    with _only(ConfigError):
        kickstart.flatten(folder / "whole.ks")


def names(data: bytes, folder: Path) -> None:
    """IMAGE@VERSION, as they become names of files, links and packages."""
    image, _, version = _text(data).partition("@")
    with _only(ValueError):
        id = ImageId(image=image, version=version, sha256="0" * 64)
        store = Store(folder, "demo")
        for place in (store.qcow2(id), store.facts(id), store.verification(id)):
            assert place.parent == place.resolve().parent and place.name.startswith(id.image)
        assert id.stem.isprintable() and not set(id.stem) & set(" /%$'\"\\")


def delivery(data: bytes, folder: Path) -> None:
    """What a worker left: no file of another folder is read."""
    (folder / deliveries.MANIFEST).write_bytes(data)
    with _only(VerifyError):
        assert all("/" not in name for name in deliveries._read(folder, signer=None).files)


def check(data: bytes, folder: Path) -> None:
    store = Store(folder, "demo")
    (store.root / "checked").mkdir(parents=True, exist_ok=True)
    (store.root / "checked/a-b.json").write_bytes(data)
    assert len(checks.checks(store)) <= 1


def statements(data: bytes, folder: Path) -> None:
    """Attestations, before their signatures are looked at."""
    with _only(VerifyError):
        attestation.read(_text(data), signer=None, what="x.rpm")


def channel(data: bytes, folder: Path) -> None:
    """compose.json, mirrorlist and withdrawn.json: what is led to is a compose of the channel."""
    (folder / "composes/20261121.1/repodata").mkdir(parents=True, exist_ok=True)
    for name in ("composes/20261121.1/compose.json", "mirrorlist", "withdrawn.json"):
        (folder / name).write_bytes(data)
    with _only(VerifyError):
        composes.origin(folder / "composes/20261121.1")
    with _only(VerifyError):
        assert composes.current(folder) in (None, folder / "composes/20261121.1")
    with _only(VerifyError):
        assert all(isinstance(text, str) for text in promotion.read_withdrawn(folder).values())


def verdict(data: bytes, folder: Path) -> None:
    """The record of a verification, perhaps another golden's."""
    store, build = Store(folder, "demo"), make_build("a-b")
    place = store.verification(build)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    verdicts.read(store, build)
    promotion.unverified(store, build.id)
    with _only(VerifyError):
        provenance.extras(store, build)


def snapshot(data: bytes, folder: Path) -> None:
    (folder / "snapshot.json").write_bytes(data)
    with _only(VerifyError):
        found = snapshots.read(folder)
        snapshots.check(found, folder)


def ansible_report(data: bytes, folder: Path) -> None:
    (folder / "site.xml").write_bytes(data)
    with _only(ToolError):
        assert ansible.tasks_run(folder) >= 0


def test_results(data: bytes, folder: Path) -> None:
    """JUnit XML, as a test left it."""
    (folder / "junit.xml").write_bytes(data)
    with _only(VerifyError):
        for suite in junit.read(folder / "junit.xml"):
            assert all(case is not None for case in suite)


def agents_answer(data: bytes, folder: Path) -> None:
    """What a guest that went on from memory says at its second serial port."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        found = saved._read(ours, until=(agent.REACHABLE, agent.FAILED), timeout_s=10)
        assert data.startswith(found)


READERS: dict[str, Reader] = {
    reader.__name__: reader
    for reader in (
        project,
        treeinfo,
        users_kickstart,
        console,
        output_disk,
        package_list,
        facts,
        lease,
        bundle,
        tests_declaration,
        checksum_file,
        memory_file,
        image_header,
        label,
        repository,
        sizes,
        kickstart_template,
        kickstart_part,
        names,
        delivery,
        check,
        statements,
        channel,
        verdict,
        snapshot,
        ansible_report,
        test_results,
        agents_answer,
    )
}
