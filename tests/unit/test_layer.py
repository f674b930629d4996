"""A recipe's phases, and the commands and scripts that carry it out."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from builder import customize, install, layer, seal
from builder.config import load
from builder.layer import Bench, Phase, phases
from builder.media import Repository, Source
from builder.model import Project
from builder.steps import Install, Run, Shell, Step, Upgrade
from builder.tools import guestfs, virt_install

UPDATES = Repository(name="updates", location="http://169.254.2.2:8000")

TOML = """\
[project]
name = "trial"
[distribution.sandbox]
inherits = "el9"
source = { dvd = "sandbox.iso" }
[image.sandbox-base]
distribution = "sandbox"
disk = "4 GiB"
[image.sandbox-app]
parent = "sandbox-base"
steps = [ { install = ["a b", "c"] }, { shell = ["echo 'x'", "true"] } ]
[image.sandbox-files]
parent = "sandbox-base"
steps = [ { write = { "/etc/x" = "y" } }, { ansible = "play/site.yml", vars = { a = 1 } }, { reboot = true } ]
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    file = tmp_path / "golden.toml"
    file.write_text(TOML, encoding="utf-8")
    dvd = bytearray(40 * 2048)
    dvd[16 * 2048 : 16 * 2048 + 6] = b"\x01CD001"
    dvd[16 * 2048 + 128 : 16 * 2048 + 130] = (2048).to_bytes(2, "little")
    (tmp_path / "sandbox.iso").write_bytes(dvd)
    return load(file)


def bench(project: Project, name: str) -> Bench:
    image = project.images[name]
    work = project.file.parent / "work"
    work.mkdir(exist_ok=True)
    return Bench(
        image=image,
        distribution=project.distributions[image.distribution],
        version="20261121.1",
        work=work,
        store_id="0123abcd",
        project=project.folder,
    )


def titles(phases: list[Phase]) -> list[str]:
    return [phase.title for phase in phases]


def test_offline_steps_and_the_seal_share_one_start() -> None:
    steps = (Upgrade(), Install(packages=("a",)), Run(commands=("true",)))
    assert titles(layer.phases(steps)) == ["upgrade + install + run + seal"]


def test_an_online_step_in_the_end_is_sealed_in_a_start_of_its_own() -> None:
    steps = (Install(packages=("a",)), Shell(commands=("x",)), Shell(commands=("y",)))
    assert titles(layer.phases(steps)) == ["install", "shell + shell", "seal"]


def test_a_base_without_steps_is_only_sealed() -> None:
    assert titles(layer.phases(())) == ["seal"]


def test_steps_keep_their_numbers() -> None:
    first, second, last = layer.phases((Shell(commands=("x",)), Run(commands=("y",)), Shell(commands=("z",))))[:3]
    assert [number for phase in (first, second, last) for number, _ in phase.steps] == [1, 2, 3]


def commands(project: Project, name: str, parents: list[Path]) -> list[str]:
    found = layer.commands(
        bench(project, name),
        parents=parents,
        target=Path("/images/t.qcow2"),
        repositories=[UPDATES],
        uri="qemu:///system",
        is_kvm=False,
        time_factor=2,
        key=Path("/key"),
        port=2222,
    )
    return [command.line for command in found]


def test_the_commands_of_a_base(project: Project) -> None:
    work = project.file.parent / "work"
    create, lend, install, take_back, output, customize_, convert = commands(project, "sandbox-base", [])
    name = "golden-build-0123abcd-sandbox-base-20261121.1"
    assert lend == f"virsh --connect qemu:///system pool-create-as --type dir {name} --target {work}"
    assert take_back == f"virsh --connect qemu:///system pool-destroy {name}"
    assert create == f"qemu-img create -q -f qcow2 {work}/disk.qcow2 4294967296"
    assert install.startswith(
        "virt-install --connect qemu:///system --name golden-build-0123abcd-sandbox-base-20261121.1"
    )
    for words in (
        "--virt-type qemu",
        f"--location {work}/dvd.iso",
        f"--initrd-inject {work}/sandbox-base.ks",
        "inst.ks=file:/sandbox-base.ks inst.text console=tty0 console=ttyS0,115200n8",
        f"pty,log.file={work}/logs/console.log",
        "--transient --noreboot --noautoconsole --wait 125",
    ):
        assert words in install
    assert output.endswith(f"truncate --size=268435456 {work}/output.raw")
    assert customize_.startswith("LIBGUESTFS_BACKEND=direct LIBGUESTFS_BACKEND_SETTINGS=force_tcg virt-customize ")
    assert f"--run {work}/steps/seal.sh" in customize_
    assert "-B" not in convert.split()


NETWORK_TREE = Source(
    url="https://mirror.example/9/", repositories=(Repository(name="AppStream", location="https://mirror.example/A/"),)
)


def network_base(project: Project, source: Source, *, version: str = "RHEL9") -> Bench:
    made = bench(project, "sandbox-base")
    update = {"source": source, "kickstart_version": version}
    return made.model_copy(update={"distribution": made.distribution.model_copy(update=update)})


def kickstart_of(made: Bench) -> str:
    layer.write_inputs(made, ssh_public_key="ssh-ed25519 A", repositories=(), xml="", port=1, key=Path("/key"))
    return made.kickstart.read_text(encoding="utf-8")


@pytest.mark.parametrize("version", ["RHEL8", "RHEL9", "RHEL10", "F43", "F44"])
def test_the_installer_of_a_network_tree_goes_by_the_proxy(
    project: Project, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """The login of the proxy is neither on the kernel line nor in the kickstart."""
    monkeypatch.setenv("https_proxy", "http://me:secret@localhost:3128")
    monkeypatch.setenv("no_proxy", "")
    made = network_base(project, NETWORK_TREE, version=version)
    installation = layer.installation(made, uri="x", is_kvm=False, time_factor=1)
    argv = [str(word) for word in virt_install.argv(installation)]
    assert " inst.proxy=http://10.0.2.2:3128 " in argv[argv.index("--extra-args") + 1]
    text = kickstart_of(made)
    assert 'url --url="https://mirror.example/9/" --proxy="http://10.0.2.2:3128"\n' in text
    assert 'repo --name="AppStream" --baseurl="https://mirror.example/A/" --proxy="http://10.0.2.2:3128"\n' in text
    assert "secret" not in " ".join(argv) + text


def test_the_proxy_is_not_for_what_no_proxy_excepts(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "mirror.example")
    made = network_base(project, NETWORK_TREE)
    assert layer.installation(made, uri="x", is_kvm=False, time_factor=1).proxy is None
    assert "--proxy" not in kickstart_of(made)


def test_the_proxy_of_a_dvd_is_for_its_further_repositories_alone(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "")
    dvd = Source(dvd=str(project.folder / "sandbox.iso"), repositories=NETWORK_TREE.repositories)
    made = network_base(project, dvd)
    assert layer.installation(made, uri="x", is_kvm=False, time_factor=1).proxy is None
    text = kickstart_of(made)
    assert "\ncdrom\n" in text
    assert '--baseurl="https://mirror.example/A/" --proxy="http://proxy.example:3128"\n' in text


def test_a_proxy_decides_nothing_of_a_base(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    made = network_base(project, NETWORK_TREE)
    before = install.kickstart(made.image, made.distribution, ssh_public_key="ssh-ed25519 A")
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    assert install.kickstart(made.image, made.distribution, ssh_public_key="ssh-ed25519 A") == before


def test_the_commands_of_a_layer(project: Project) -> None:
    work = project.file.parent / "work"
    found = commands(project, "sandbox-app", [Path("/images/sandbox-base-20261120.1.qcow2")])
    assert found[0] == (
        f"qemu-img create -q -f qcow2 -F qcow2 -b /images/sandbox-base-20261120.1.qcow2 {work}/disk.qcow2"
    )
    assert f"virsh --connect qemu:///system create {work}/domain.xml" in found
    assert found[-1].endswith(f"-B sandbox-base-20261120.1.qcow2 -F qcow2 {work}/disk.qcow2 /images/t.qcow2")


def test_the_commands_name_the_disks_that_travel_along(project: Project) -> None:
    work = project.file.parent / "work"
    found = commands(project, "sandbox-files", [Path("/images/sandbox-base-20261120.1.qcow2")])
    scratch, _output, first, again, _virsh, lend, play, reboot, _off, _output, seal_, _convert = found[1:]
    assert "mke2fs -q -F -t ext4 -O '^has_journal'" in scratch
    assert again == scratch
    disks = "".join(f" --format raw --add {work}/{name}.raw" for name in ("output", "scratch", "input"))
    assert f"{disks} --memsize" in first
    assert f"--format raw --add {work}/output.raw --memsize" in seal_
    folder = work / "2-ansible"
    assert play == (
        f"ansible-playbook --inventory {folder}/inventory.json --extra-vars @{folder}/vars.json "
        f"{project.folder}/play/site.yml"
    )
    assert "baseurl=http://10.0.2.2:8000\n" in lend
    assert reboot.endswith("-- 'systemctl reboot'")


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((), {}),
        ((Upgrade(),), {"cache-end": 1}),
        ((Upgrade(), Install(packages=("a",))), {"2-install": 1, "cache-end": 2}),
        # The end of a phase that is not the last is a checkpoint by itself.
        ((Upgrade(), Install(packages=("a",)), Shell(commands=("true",))), {"2-install": 1}),
    ],
)
def test_each_step_has_a_checkpoint_when_what_follows_begins(steps: tuple[Step, ...], expected: dict[str, int]) -> None:
    first = phases(steps)[0]
    assert layer.checkpoints(first) == expected
    names = [operation.name for operation in layer.operations(first, repositories=[])]
    assert set(expected) <= set(names)


def test_what_a_step_did_is_written_out_however_its_script_ends(tmp_path: Path) -> None:
    (tmp_path / "sync").write_text("#!/bin/sh\necho written out\n")
    (tmp_path / "sync").chmod(0o755)

    def printed(*commands: str) -> tuple[int, list[str]]:
        (operation,) = scripts(Run(commands=commands))
        guestfs.write_scripts([operation], tmp_path)
        script, path = tmp_path / f"{operation.name}.sh", f"{tmp_path}:{os.environ['PATH']}"
        ended = subprocess.run([script], env={"PATH": path}, stdout=subprocess.PIPE, text=True, check=False)
        return ended.returncode, ended.stdout.splitlines()[1:]

    assert printed("echo one", "exit 0", "echo two") == (0, ["one", "written out"])
    assert printed("echo one  # a comment") == (0, ["one", "written out"])
    assert printed("echo one", "false", "echo two") == (1, ["one"])


def scripts(*steps: Upgrade | Install | Run) -> list[guestfs.Operation]:
    begin, *found, end = customize.operations(list(enumerate(steps, 1)), repositories=[UPDATES])
    assert (begin.name, end.name) == ("cache-begin", "cache-end")
    return found


def test_dnf_takes_the_named_repositories_alone() -> None:
    (upgrade,) = scripts(Upgrade())
    assert upgrade.script == (
        "dnf -y '--disablerepo=*' '--enablerepo=golden-*' '--setopt=golden-*.gpgcheck=0' "
        "'--setopt=golden-*.timeout=4000' "
        "--repofrompath=golden-updates,http://169.254.2.2:8000 upgrade\n"
    )


def test_a_package_name_is_never_a_command() -> None:
    (install,) = scripts(Install(packages=("$(touch /x)", "-x; true", "ok")))
    assert "install '$(touch /x)' '-x; true' ok\n" in install.script


@pytest.mark.parametrize(
    "operation", [seal.OPERATION, *scripts(Upgrade(), Install(packages=("a",)))], ids=lambda o: o.name
)
def test_scripts_are_ones_that_a_shell_can_read(tmp_path: Path, operation: guestfs.Operation) -> None:
    guestfs.write_scripts([operation], tmp_path)
    subprocess.run(["sh", "-n", tmp_path / f"{operation.name}.sh"], check=True)


def test_a_skipped_package_is_an_error_although_dnf_ended_well(tmp_path: Path) -> None:
    (install,) = scripts(Install(packages=("here", "@group", "glob*")))
    for name, body in (("dnf", "exit 0"), ("rpm", 'for last; do :; done; [ "$last" = there ]')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    guestfs.write_scripts([install], tmp_path)
    ended = subprocess.run(
        ["sh", tmp_path / "1-install.sh"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr == "golden: dnf ended well, and 'here' is not installed\n"
