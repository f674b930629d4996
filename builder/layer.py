"""One image's recipe as phases, and what each phase runs: shared by the build itself and by `--dry-run`."""

from __future__ import annotations

import itertools
import shlex
import uuid
from collections.abc import Sequence
from pathlib import Path

from builder import bases, customize, importing, install, mirrors, parcels, provision, run, seal
from builder.media import Repository
from builder.model import Distribution, Frozen, Image
from builder.steps import Step, name_of
from builder.tools import guestfs, input_disk, proxies, qemu_img, scratch_disk, ssh, virt_install
from builder.tools.domain import Disk, Label, Machine
from builder.tools.guestfs import Operation
from builder.tools.input_disk import Parcel
from builder.tools.virt_install import Installation, usable_osinfo

NumberedStep = tuple[int, Step]


class Phase(Frozen):
    """Steps that share one start: of the machine (online) or of libguestfs' appliance (offline).

    is_last: the layer is sealed in the same start; always an offline phase, and there is always one.
    prepares: an imported image is prepared in the same start; an offline phase, and the first.
    """

    steps: tuple[NumberedStep, ...]
    is_online: bool
    is_last: bool
    prepares: bool = False

    @property
    def title(self) -> str:
        words = [*(["prepare"] if self.prepares else []), *(step.kind for _, step in self.steps)]
        return " + ".join([*words, "seal"] if self.is_last else words)


def phases(steps: Sequence[Step], *, prepares: bool = False) -> list[Phase]:
    """Group a recipe's steps by where they run, in their order; the last group also seals.

    prepares: the first group, an offline one, prepares an imported image.
    """
    numbered = list(enumerate(steps, 1))
    groups = [
        (online, tuple(group)) for online, group in itertools.groupby(numbered, key=lambda pair: pair[1].is_online)
    ]
    if prepares and groups and groups[0][0]:
        groups.insert(0, (False, ()))
    if not groups or groups[-1][0]:
        groups.append((False, ()))
    last = len(groups) - 1
    return [
        Phase(steps=group, is_online=online, is_last=n == last, prepares=prepares and n == 0)
        for n, (online, group) in enumerate(groups)
    ]


class Bench(Frozen):
    """Where one build is made: its folder, and the names of what is in it. image, version: of the build to be.

    disk_name: the file that is written to. project: the folder of golden.toml.
    tree: address at which the installer reaches a source that is a folder.
    """

    image: Image
    distribution: Distribution
    version: str
    work: Path
    store_id: str
    project: Path
    tree: str | None = None
    disk_name: str = "disk.qcow2"

    @property
    def disk(self) -> Path:
        return self.work / self.disk_name

    def on(self, disk: Path) -> Bench:
        """The same with another file to write to."""
        return self.model_copy(update={"disk_name": disk.name})

    @property
    def logs(self) -> Path:
        return self.work / "logs"

    @property
    def console(self) -> Path:
        return self.logs / "console.log"

    @property
    def kickstart(self) -> Path:
        return self.work / f"{self.image.name}.ks"

    @property
    def dvd(self) -> Path:
        """A link to it, so that all that virt-install is given lies in one folder of this build's own."""
        return self.work / "dvd.iso"

    @property
    def domain_xml(self) -> Path:
        return self.work / "domain.xml"

    @property
    def scripts(self) -> Path:
        return self.work / "steps"

    @property
    def output(self) -> Path:
        return self.work / "output.raw"

    @property
    def is_import(self) -> bool:
        return self.image.parent is None and bases.is_import(self.distribution)

    @property
    def phases(self) -> list[Phase]:
        return phases(self.image.steps, prepares=self.is_import)

    @property
    def input(self) -> Path:
        """Files for the guest, all of a recipe's."""
        return self.work / "input.raw"

    @property
    def scratch(self) -> Path:
        return self.work / "scratch.raw"

    @property
    def domain(self) -> str:
        return f"{domain_prefix(self.store_id)}{self.image.name}-{self.version}"


def domain_prefix(store_id: str) -> str:
    """What the names of a store's own build domains begin with; other stores on this host have another."""
    return f"golden-build-{store_id}-"


def operations(
    phase: Phase, *, repositories: Sequence[Repository], preparations: Sequence[Operation] = ()
) -> list[Operation]:
    """What an offline phase runs. repositories: at addresses that libguestfs' appliance reaches.

    preparations: of an imported image, for the phase that prepares it.
    """
    steps = customize.operations(phase.steps, repositories=repositories)
    steps = [*preparations, *steps] if phase.prepares else steps
    return [*steps, seal.OPERATION if phase.is_last else seal.KEEP_OUTPUT]


def checkpoints(phase: Phase) -> dict[str, int]:
    """Operation of an offline phase -> number of the step whose state the disk has when it begins.

    The end of a phase that is not the last is a checkpoint by itself.
    """
    numbers = [number for number, _ in phase.steps]
    following = [name_of(number, step) for number, step in phase.steps[1:]]
    if phase.steps and phase.is_last:
        following.append(customize.CACHE_END)
    return dict(zip(following, numbers, strict=False))


def more_disks(bench: Bench, phase: Phase) -> list[Path]:
    """The raw disks of an offline phase beside the output disk: scratch if it has steps, input if they take files."""
    if not phase.steps:
        return []
    return [bench.scratch, bench.input] if _parcels(bench, phase) else [bench.scratch]


def _parcels(bench: Bench, phase: Phase) -> list[Parcel]:
    return parcels.parcels(phase.steps, project=bench.project)


def installation(bench: Bench, *, uri: str, is_kvm: bool, time_factor: float) -> Installation:
    """The run of the installer for a base."""
    distribution = bench.distribution
    location = bases.location_of(distribution)
    return Installation(
        uri=uri,
        domain=bench.domain,
        osinfo=usable_osinfo(distribution.osinfo),
        arch=distribution.arch,
        firmware=distribution.firmware,
        nvram=bench.work / "nvram.fd",
        location=bench.dvd if bases.is_dvd(distribution) else location,
        kickstart=bench.kickstart,
        kernel_arguments=distribution.boot_arguments,
        proxy=_proxy(str(location)) if bases.source_of(distribution).url else None,
        disk=bench.disk,
        console=bench.console,
        memory_mib=distribution.memory_mib,
        cpus=distribution.cpus,
        is_kvm=is_kvm,
        timeout_s=distribution.limits.install_s * time_factor,
    )


def _proxy(address: str) -> str | None:
    return proxies.for_address(address, host=virt_install.HOST)


def machine(bench: Bench, *, parents: Sequence[Path], is_kvm: bool, port: int, pid: int) -> Machine:
    """The machine of an online phase. parents: the files below the overlay, nearest first."""
    return Machine(
        name=bench.domain,
        uuid=str(uuid.uuid4()),
        label=Label(purpose="build", owner_pid=pid, work=bench.work),
        arch=bench.distribution.arch,
        firmware=bench.distribution.firmware,
        accelerator="kvm" if is_kvm else "tcg",
        memory_mib=bench.distribution.memory_mib,
        cpus=bench.distribution.cpus,
        disks=(Disk(chain=(bench.disk, *parents)),),
        scratch=bench.scratch,
        ssh_port=port,
        console_log=bench.console,
    )


class Command(Frozen):
    """One command of a build, ready to paste. title: the phase it belongs to."""

    title: str
    line: str


def commands(
    bench: Bench,
    *,
    parents: Sequence[Path],
    target: Path,
    repositories: Sequence[Repository],
    uri: str,
    is_kvm: bool,
    time_factor: float,
    key: Path,
    port: int,
    preparations: Sequence[Operation] = (),
) -> list[Command]:
    """Every command of one build, in order. parents: files of the chain below, nearest first."""
    found = _first_commands(bench, parents=parents, uri=uri, is_kvm=is_kvm, time_factor=time_factor)
    variables = guestfs.environment(is_kvm=is_kvm) | proxies.for_guest(guestfs.HOST, with_passwords=False)
    environment = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    for phase in bench.phases:
        if phase.is_online:
            lines = _online_commands(
                bench, phase, repositories=repositories, uri=uri, target=ssh.Target(port=port, key=key)
            )
        else:
            work = operations(phase, repositories=repositories, preparations=preparations)
            argv = guestfs.argv(
                work, disk=bench.disk, output=bench.output, more=more_disks(bench, phase), scripts=bench.scripts
            )
            lines = [guestfs.output_disk_command(bench.output), f"{environment} {run.printable(argv)}"]
            if bench.scratch in more_disks(bench, phase):
                lines.insert(0, run.printable(scratch_disk.argv(bench.scratch)))
        found += [Command(title=phase.title, line=line) for line in lines]
    backing = parents[0].name if parents else None
    last = run.printable(qemu_img.compress_argv(bench.disk, target, backing=backing))
    return [*found, Command(title="compress", line=last)]


def _first_commands(
    bench: Bench, *, parents: Sequence[Path], uri: str, is_kvm: bool, time_factor: float
) -> list[Command]:
    if parents:
        argvs = [qemu_img.overlay_argv(bench.disk, parents[0])]
    elif bench.is_import:
        file = Path(bases.source_of(bench.distribution).location)
        argvs = importing.argvs(file, bench.disk, bench.image.disk_bytes or 0, is_kvm=is_kvm)
    else:
        it = installation(bench, uri=uri, is_kvm=is_kvm, time_factor=time_factor)
        argvs = [
            qemu_img.create_argv(bench.disk, bench.image.disk_bytes or 0),
            # As `Connection.storage_pool`, which says why.
            ["virsh", "--connect", uri, "pool-create-as", "--type", "dir", bench.domain, "--target", bench.work],
            virt_install.argv(it),
            ["virsh", "--connect", uri, "pool-destroy", bench.domain],
        ]
    title = "overlay" if parents else "import" if bench.is_import else "install"
    return [Command(title=title, line=run.printable(argv)) for argv in argvs]


def _online_commands(
    bench: Bench, phase: Phase, *, repositories: Sequence[Repository], uri: str, target: ssh.Target
) -> list[str]:
    """libvirt is called as a library; virsh is how a person does the same."""
    lines: list[run.Argv] = [
        scratch_disk.argv(bench.scratch),
        ["virsh", "--connect", uri, "create", bench.domain_xml],
        ssh.command(target, "sh", "-euc", provision.put_downloads_aside(mirrors.seen_from_guest(repositories))),
    ]
    for number, step in phase.steps:
        lines += provision.argvs(step, target, project=bench.project, work=bench.work / name_of(number, step))
    return [run.printable(argv) for argv in (*lines, ssh.command(target, *provision.POWER_OFF))]


def write_inputs(
    bench: Bench,
    *,
    ssh_public_key: str,
    repositories: Sequence[Repository],
    xml: str,
    port: int,
    key: Path,
    preparations: Sequence[Operation] = (),
) -> None:
    """The files that the commands name: kickstart, scripts, files for the guest, domain definition, inventories.

    port, key: of the machine's sshd.
    """
    if bench.image.parent is None and not bench.is_import:
        text = install.kickstart(
            bench.image, bench.distribution, ssh_public_key=ssh_public_key, tree=bench.tree, proxy_for=_proxy
        )
        bench.kickstart.write_text(text, encoding="utf-8")
        if bases.is_dvd(bench.distribution):
            bench.dvd.unlink(missing_ok=True)
            bench.dvd.symlink_to(Path(bases.source_of(bench.distribution).location).absolute())
    for phase in bench.phases:
        if phase.is_online:
            bench.domain_xml.write_text(xml, encoding="utf-8")
            for number, step in phase.steps:
                target = ssh.Target(port=port, key=key)
                provision.write_inputs(step, target, project=bench.project, work=bench.work / name_of(number, step))
        else:
            if _parcels(bench, phase):
                offline = [pair for pair in enumerate(bench.image.steps, 1) if not pair[1].is_online]
                input_disk.write(bench.input, parcels.parcels(offline, project=bench.project))
            work = operations(phase, repositories=repositories, preparations=preparations)
            guestfs.write_scripts(work, bench.scripts)
