"""Repackaging with the real dpkg-deb, rpmbuild, createrepo_c, dnf, cpio and apt, on tiny input."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from builder import run
from builder.errors import HostError, ToolError, VerifyError
from builder.sandbox import debian, definition, dvd, host, initrd, installer, repack, stage
from builder.sandbox.debian import Deb
from builder.sandbox.definition import Package
from builder.sandbox.repack import Version

AWKWARD = ("usr/bin/[", "usr/lib/system-systemd\\x2dfsck.slice", "usr/share/a b/100%", "usr/share/{x,y}*")


def make_deb(folder: Path, name: str, files: dict[str, str], *, log: Path) -> Deb:
    """A real Debian package with these files in `folder`."""
    tree = folder / f"{name}.tree"
    for path, text in {"DEBIAN/control": f"Package: {name}\nVersion: 1.0-1\nArchitecture: amd64\n", **files}.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text() + f"Maintainer: A <a@example.com>\nDescription: {name}\n")
    deb = Deb(name, "1.0-1", f"{name}_1.0-1_amd64.deb")
    run.run(["dpkg-deb", "--build", tree, folder / deb.file], why="make a package", timeout_s=60, log=log)
    return deb


def build_rpm(package: Package, staged: Path, *, folder: Path, into: Path, version: str = "1.0") -> None:
    files = folder / "files"
    folder.mkdir(parents=True)
    files.write_text(repack.file_list(staged, attributes=package.attributes, shared=frozenset()))
    spec = folder / f"{package.name}.spec"
    spec.write_text(repack.spec(package, Version(version, "1"), requires=(), file_list=files, staged=staged))
    repack.build(spec, into=into, log=folder / "log")


def test_a_debian_package_becomes_an_rpm_with_the_same_files(tmp_path: Path) -> None:
    log = tmp_path / "log"
    deb = make_deb(
        tmp_path, "odd", {name: name for name in (*AWKWARD, "bin/sh", "usr/share/doc/odd/copyright")}, log=log
    )
    package = Package(
        "odd", "Odd names", debian=("odd",), unwanted=("usr/share/doc/*",), links=(("/usr/bin/sh.link", "sh"),)
    )
    staged = tmp_path / "staged"
    stage.stage(package, [deb], cache=tmp_path, root=staged, log=log)
    build_rpm(package, staged, folder=tmp_path / "build", into=tmp_path / "rpms")
    [rpm] = (tmp_path / "rpms").glob("*.rpm")
    assert rpm.name == "odd-1.0-1.x86_64.rpm"
    listed = run.query(
        ["rpm", "-qp", "--qf", "[%{FILEMODES:perms} %{FILENAMES}\n]", rpm], why="list the files", timeout_s=60
    )
    files = {line.split(" ", 1)[1] for line in listed.splitlines() if not line.startswith("d")}
    assert files == {f"/{name}" for name in (*AWKWARD, "usr/bin/sh", "usr/bin/sh.link")}


def test_the_repository_has_the_group_and_an_update_wins(tmp_path: Path) -> None:
    recipe = definition.load()
    for version in ("9.1", "9.2"):
        staged = tmp_path / f"staged-{version}"
        (staged / "etc").mkdir(parents=True)
        (staged / "etc/redhat-release").write_text(version)
        package = Package("sandbox-release", "Release files", provides=("system-release",))
        build_rpm(package, staged, folder=tmp_path / f"build-{version}", into=tmp_path / "repo", version=version)
    groups = tmp_path / "comps.xml"
    groups.write_text(dvd.comps(recipe))
    dvd.repository(tmp_path / "repo", groups=groups, log=tmp_path / "log")
    dnf = ["dnf", "-q", f"--installroot={tmp_path / 'root'}", "--releasever=9", "--disableplugin=*"]
    dnf += [f"--setopt=reposdir={tmp_path}", f"--repofrompath=dvd,{tmp_path / 'repo'}", "--repo=dvd"]
    info = run.query([*dnf, "group", "info", "core"], why="ask dnf for the group", timeout_s=120)
    assert "sandbox-release" in info
    newest = run.query(
        [*dnf, "repoquery", "--latest-limit=1", "--whatprovides", "system-release"], why="ask dnf", timeout_s=120
    )
    assert newest.strip() == "sandbox-release-0:9.2-1.x86_64"


def test_a_spec_that_rpmbuild_refuses_is_an_error_with_its_words(tmp_path: Path) -> None:
    package = Package("ghost", "Nothing")
    spec = tmp_path / "ghost.spec"
    (tmp_path / "files").write_text('"/usr/bin/ghost"\n')
    (tmp_path / "staged").mkdir()
    spec.write_text(
        repack.spec(package, Version("1", "1"), requires=(), file_list=tmp_path / "files", staged=tmp_path / "staged")
    )
    with pytest.raises(ToolError, match="could not build the RPM ghost") as caught:
        repack.build(spec, into=tmp_path / "rpms", log=tmp_path / "log")
    assert "File not found" in dict(caught.value.details)["output"]
    assert not list((tmp_path / "rpms").rglob("*.rpm"))


def test_cpio_reads_the_initrd(tmp_path: Path) -> None:
    base = tmp_path / "modules/6.1"
    (base / "kernel").mkdir(parents=True)
    (base / "kernel/virtio_blk.ko").write_bytes(b"\x7fELF")
    (base / "modules.dep").write_text("kernel/virtio_blk.ko:\n")
    (base / "modules.builtin").write_text("")
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"busybox")
    target = tmp_path / "initrd.img"
    initrd.build(target, init="guest-init", busybox=busybox, modules=["virtio_blk"], base=base)
    archive = tmp_path / "initrd.cpio"
    archive.write_bytes(gzip.decompress(target.read_bytes()))
    listed = run.query(["cpio", "-t", "-v", "-F", archive], why="list the initrd", timeout_s=60)
    rows = {line.split()[-1]: line.split()[0] for line in listed.splitlines()}
    assert rows.keys() == {
        *("bin", "bin/busybox", "dev", "dev/console", "init", "modules", "modules/order", "modules/virtio_blk.ko")
    }
    assert (rows["dev/console"], rows["init"]) == ("crw-------", "-rwxr-xr-x")


def test_cpio_reads_the_initrd_of_programs(tmp_path: Path) -> None:
    """The loader is an absolute link, in the guest to a file of the guest's: never to this host's."""
    staged = tmp_path / "base"
    (staged / "glibc/usr/lib64").mkdir(parents=True)
    (staged / "glibc/usr/lib/x").mkdir(parents=True)
    (staged / "lvm2/usr/sbin").mkdir(parents=True)
    (staged / "glibc/usr/lib64/ld.so.2").symlink_to("/lib/x/ld-2.36.so")
    (staged / "glibc/usr/lib/x/ld-2.36.so").write_text("the guest's loader")
    (staged / "lvm2/usr/sbin/lvm").write_text("lvm")
    target, tree = tmp_path / "boot/initrd.img", tmp_path / "tree"
    initrd.build_of_files(target, files=["sbin/lvm", "lib64/ld.so.2", "lib/x/ld-2.36.so"], staged=staged)
    tree.mkdir()
    run.run(
        ["sh", "-c", f"gzip -dc {target} | cpio -idm -D {tree}"],
        why="unpack the initrd",
        timeout_s=60,
        log=tmp_path / "log",
    )
    assert (tree / "lib64/ld.so.2").read_text() == "the guest's loader"
    assert (tree / "sbin/lvm").stat().st_mode & 0o777 == 0o755
    with pytest.raises(VerifyError, match=r"no package of the sandbox has /usr/sbin/dmsetup, which its initrd needs"):
        initrd.build_of_files(target, files=["sbin/dmsetup"], staged=staged)


@pytest.mark.parametrize("script", ["guest-init", "installer-init"])
def test_the_init_scripts_are_shell(script: str, tmp_path: Path) -> None:
    run.run(["sh", "-n", definition.DATA / script], why="read the script", timeout_s=60, log=tmp_path / "log")


def test_the_stand_in_runs_from_the_packages_that_the_installer_carries(tmp_path: Path) -> None:
    """Nothing of golden's own environment is needed: the image has what the stand-in imports."""
    packages = tmp_path / "packages"
    for name in installer.PYTHON_PACKAGES:
        installer.copy_python_package(installer.location(name), packages / name)
    installer.copy_python_package(installer.STAND_IN, packages / "golden_stand_in")
    program = (
        f"import sys; sys.path[:0] = [{str(packages)!r}]\n"
        "from golden_stand_in import plan\n"
        "print(plan.missing(plan.make(plan.parse('text\\ntimezone UTC\\nrootpw --lock\\n'))))"
    )
    # -I and -S: no site-packages, no PYTHONPATH.
    said = run.query(["/usr/bin/python3", "-I", "-S", "-c", program], why="try the stand-in", timeout_s=120)
    assert said.strip() == "['Software selection', 'Installation Destination']"


def test_apt_says_what_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="could not resolve the sandbox's Debian packages") as caught:
        debian.resolve(["no-such-package-anywhere"], status=tmp_path / "status")
    assert "no-such-package-anywhere" in dict(caught.value.details)["output"]
    assert caught.value.try_next == "apt-get update"


def test_this_host_can_make_the_sandbox() -> None:
    host.check()
