"""The real virt-install takes every command that golden gives it, down to the machine's definition; nothing starts.

The trees are small and false: virt-install reads .treeinfo and takes kernel and initrd, whatever they hold.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import layer
from builder.catalogue import catalogue
from builder.config import load
from builder.construction import say_what_is_odd
from builder.decision import Decision
from builder.layer import Bench
from builder.media import Source
from builder.model import Project
from builder.pipeline import Pipeline
from builder.preflight.kvm import Accelerator
from builder.progress import Reporter
from builder.run import query
from builder.store import Store
from builder.tools import qemu_img, virt_install
from builder.tools.libvirt import connect
from builder.tools.virt_install import Installation
from builder.tools.webserver import serving
from builder.workshop import Host
from tests.mirror import File, mirror

TREEINFO = """\
[general]
arch = {arch}
family = Rocky Linux
version = 9.4
[images-{arch}]
initrd = images/pxeboot/initrd.img
kernel = images/pxeboot/vmlinuz
[stage2]
mainimage = images/install.img
"""


@pytest.fixture(params=["x86_64"])
def tree(request: pytest.FixtureRequest, open_path: Path) -> Path:
    """A tree for one architecture, as a folder."""
    folder = open_path / "tree"
    (folder / "images/pxeboot").mkdir(parents=True)
    for name in ("vmlinuz", "initrd.img"):
        (folder / "images/pxeboot" / name).write_bytes(name.encode() * 100)
    (folder / ".treeinfo").write_text(TREEINFO.format(arch=request.param))
    return folder


@pytest.fixture
def served(tree: Path) -> Iterator[str]:
    with serving(tree) as server:
        yield server.url


def make_project(folder: Path, text: str) -> Project:
    file = folder / "golden.toml"
    file.write_text(text, encoding="utf-8")
    return load(file)


def make_installation(project: Project, image: str, source: Source, work: Path) -> Installation:
    """As a build would make it; the kickstart is there, the disk is an empty one."""
    distribution = project.distribution_of(image).model_copy(update={"source": source})
    bench = Bench(
        image=project.images[image],
        distribution=distribution,
        version="20261121.1",
        project=project.folder,
        work=work,
        store_id="0123abcd",
        tree=virt_install.host_address(8000),
    )
    bench.logs.mkdir(parents=True)
    qemu_img.create(bench.disk, 1024**3)
    layer.write_inputs(
        bench,
        ssh_public_key="ssh-ed25519 AAAA golden",
        repositories=(),
        xml="",
        port=2222,
        key=project.ssh_key,
    )
    return layer.installation(bench, uri="qemu:///system", is_kvm=False, time_factor=1)


def definitions(installation: Installation) -> list[ET.Element]:
    """The machine that installs, and the one that is left; virt-install prints two documents.

    It makes its storage pools for that, too, unless there is one: none is left.
    """
    work = installation.disk.parent
    with connect() as connection:
        with connection.storage_pool(work, name=installation.domain):
            printed = query(
                [*virt_install.argv(installation), "--print-xml"],
                why="ask virt-install for its machines",
                timeout_s=120,
            )
            assert [pool.name for pool in connection.pools_below(work.parent)] == [installation.domain]
        assert connection.pools_below(work.parent) == []
    return list(ET.fromstring(f"<machines>{printed}</machines>"))


def text(element: ET.Element, path: str) -> str:
    found = element.findtext(path)
    assert found is not None, path
    return found


@pytest.mark.parametrize("name", list(catalogue()))
def test_every_distribution_is_taken(tree: Path, open_path: Path, name: str) -> None:
    project = make_project(open_path, f'[image.{name}-base]\ndistribution = "{name}"\n')
    installation = make_installation(project, f"{name}-base", Source(tree=tree), open_path / "work")
    known = virt_install.known_osinfo()
    assert installation.osinfo in known
    assert (installation.osinfo == project.distributions[name].osinfo) == (project.distributions[name].osinfo in known)
    first, _ = definitions(installation)
    assert f"inst.ks=file:/{name}-base.ks inst.text console=tty0 console=ttyS0,115200n8" in text(first, "os/cmdline")
    assert text(first, "name") == f"golden-build-0123abcd-{name}-base-20261121.1"


@pytest.mark.parametrize(
    ("tree", "keys", "machine", "firmware", "console"),
    [
        ("x86_64", 'firmware = "bios"', "q35", None, "ttyS0"),
        ("x86_64", 'firmware = "uefi"\nlayout = "separate-lvm"', "q35", "efi", "ttyS0"),
        ("aarch64", 'arch = "aarch64"', "virt", "efi", "ttyAMA0"),
    ],
    indirect=["tree"],
)
def test_every_kind_of_machine_is_taken(
    tree: Path, open_path: Path, keys: str, machine: str, firmware: str | None, console: str
) -> None:
    project = make_project(
        open_path, f'[distribution.rocky9]\n{keys}\n[image.rocky9-base]\ndistribution = "rocky9"\nfips = false\n'
    )
    work = open_path / "a, work \\ folder"
    for element in definitions(make_installation(project, "rocky9-base", Source(tree=tree), work)):
        system = element.find("os")
        assert system is not None
        assert system.get("firmware") == firmware
        kind = system.find("type")
        assert kind is not None
        assert kind.get("machine") == machine
        assert kind.get("arch") == project.distributions["rocky9"].arch
        disk = element.find("devices/disk[@device='disk']/source")
        assert disk is not None
        assert disk.get("file") == str(work / "disk.qcow2")
        if firmware:
            assert text(element, "os/nvram") == str(work / "nvram.fd")
            feature = system.find("firmware/feature")
            assert feature is not None
            assert feature.attrib == {"enabled": "no", "name": "secure-boot"}
        assert element.find("devices/serial/log") is not None
    assert f"console={console},115200n8" in (work / "rocky9-base.ks").read_text()


def test_a_tree_at_an_address_is_taken(served: str, open_path: Path) -> None:
    project = make_project(open_path, '[image.rocky9-base]\ndistribution = "rocky9"\n')
    installation = make_installation(project, "rocky9-base", Source(url=f"{served}/"), open_path / "work")
    assert installation.location == f"{served}/"
    assert f"inst.repo={served}/" in text(definitions(installation)[0], "os/cmdline")
    assert f'url --url="{served}/"' in (open_path / "work/rocky9-base.ks").read_text()


def test_a_tree_behind_a_proxy_is_taken(tree: Path, open_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """virt-install itself goes by the proxy too: it reads kernel and initrd."""
    project = make_project(open_path, '[image.rocky9-base]\ndistribution = "rocky9"\n')
    with mirror() as proxy:
        for name in (".treeinfo", "images/pxeboot/vmlinuz", "images/pxeboot/initrd.img"):
            proxy.files[f"http://tree.example/{name}"] = File((tree / name).read_bytes())
        monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//me:secret@"))
        monkeypatch.setenv("no_proxy", "")
        source = Source(url="http://tree.example/")
        first, _ = definitions(make_installation(project, "rocky9-base", source, open_path / "work"))
        port = proxy.url.rpartition(":")[2]
    assert f" inst.proxy=http://10.0.2.2:{port} " in text(first, "os/cmdline")
    assert {"http://tree.example/images/pxeboot/vmlinuz"} <= {request.path for request in proxy.requests}
    assert "secret" not in ET.tostring(first, encoding="unicode")


def test_a_tree_in_a_folder_is_reached_by_the_guest_over_its_network(tree: Path, open_path: Path) -> None:
    project = make_project(open_path, '[image.rocky9-base]\ndistribution = "rocky9"\n')
    make_installation(project, "rocky9-base", Source(tree=tree), open_path / "work")
    assert 'url --url="http://10.0.2.2:8000/"' in (open_path / "work/rocky9-base.ks").read_text()


def test_a_dvd_is_taken(tree: Path, open_path: Path) -> None:
    dvd = open_path / "some.iso"
    query(["xorriso", "-as", "mkisofs", "-quiet", "-r", "-V", "SOME", "-o", dvd, tree], why="make a DVD")
    project = make_project(open_path, '[image.rocky9-base]\ndistribution = "rocky9"\n')
    first, _ = definitions(make_installation(project, "rocky9-base", Source(dvd=str(dvd)), open_path / "work"))
    drive = first.find("devices/disk[@device='cdrom']/source")
    assert drive is not None
    link = open_path / "work/dvd.iso"
    assert drive.get("file") == str(link)
    assert link.readlink() == dvd
    assert "\ncdrom\n" in (open_path / "work/rocky9-base.ks").read_text()


@pytest.fixture
def pipeline(tree: Path, open_path: Path) -> Pipeline:
    """A project whose base is installed from a folder, on a machine without KVM."""
    (open_path / "keys").mkdir()
    (open_path / "keys/id_ed25519.pub").write_text("ssh-ed25519 AAAA golden\n")
    project = make_project(
        open_path,
        '[distribution.new1]\ninherits = "el9"\nosinfo = "newer-than-osinfo-db"\nsource = { tree = "tree" }\n'
        '[image.new1-base]\ndistribution = "new1"\n',
    )
    host = Host(uri="qemu:///system", accelerator=Accelerator(kind="tcg", reason="a test"))
    return Pipeline(project, Store(open_path / "state", "x"), host=host, reporter=Reporter("plain"))


def test_a_dry_run_serves_the_folder_where_the_kickstart_looks_for_it(pipeline: Pipeline, tree: Path) -> None:
    serve, _, _, install, *_ = [command.line for command in pipeline.dry_run(["new1-base"], rebuild=[])["new1-base"]]
    found = re.fullmatch(rf"python3 -m http.server --bind 127.0.0.1 --directory {tree} (\d+) &", serve)
    assert found is not None, serve
    assert f"--location {tree} " in install
    kickstart = (pipeline.store.root / "dry-run/new1-base/new1-base.ks").read_text()
    assert f'url --url="http://10.0.2.2:{found[1]}/"\n' in kickstart


def test_an_unknown_operating_system_is_told_under_a_generic_name_with_a_word(
    pipeline: Pipeline, open_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.reporter = Reporter("plain")  # writes to where standard error is now
    (planned,) = Decision(pipeline.project, pipeline.store, ["new1-base"]).plan()
    bench = pipeline.workshop.bench(planned, version="20261121.1", work=open_path / "work")
    bench.work.mkdir()
    bench.kickstart.write_text("text\n")
    say_what_is_odd(bench, layer.installation(bench, uri="", is_kvm=False, time_factor=1), note=pipeline.reporter.note)
    assert (
        capsys.readouterr()
        .err.strip()
        .endswith(
            "new1-base: this machine's osinfo-db does not know 'newer-than-osinfo-db'; virt-install is told 'linux2022'"
        )
    )
