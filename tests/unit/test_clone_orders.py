"""Names, numbers, owners and memory of clones; nothing is started."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from builder import clones
from builder.clones.memory import Capacity, declared, need
from builder.errors import ConfigError, HostError


@pytest.mark.parametrize(
    ("names", "count", "expected"),
    [
        (["web"], None, ["web"]),
        (["web"], 1, ["web-1"]),
        (["web"], 3, ["web-1", "web-2", "web-3"]),
        (["a", "b"], None, ["a", "b"]),
        (["a", "b"], 2, ["a", "b"]),
        ([], None, ["sandbox-base-2"]),
        ([], 3, ["sandbox-base-2", "sandbox-base-4", "sandbox-base-5"]),
    ],
)
def test_names(names: list[str], count: int | None, expected: list[str]) -> None:
    taken = ["sandbox-base-1", "sandbox-base-3"]
    assert clones.numbered(names, image="sandbox-base", count=count, taken=taken) == expected


def test_names_and_a_count_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 names are given for 3 clones"):
        clones.numbered(["a", "b"], image="x", count=3, taken=[])


def test_an_owner_is_a_process_and_not_only_its_number() -> None:
    with subprocess.Popen(["sleep", "100"]) as child:
        owner = clones.owner(child.pid)
        assert owner is not None and owner.is_alive()
        assert not owner.model_copy(update={"start": owner.start + 1}).is_alive()
        assert not owner.model_copy(update={"boot": "another"}).is_alive()
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        # A zombie: dead, and still in /proc.
        assert clones.owner(child.pid) is None
    assert not owner.is_alive()


def process(proc: Path, pid: int, *words: str) -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "cmdline").write_bytes("\0".join(words).encode() + b"\0")


def test_memory_is_what_running_machines_declare(tmp_path: Path) -> None:
    process(tmp_path, 1, "qemu-system-x86_64", "-name", "guest=golden-a,debug-threads=on", "-m", "512", "-smp", "1")
    process(tmp_path, 2, "qemu-kvm", "-name", "guest=golden-b", "-m", "size=2097152k,slots=0")
    process(tmp_path, 3, "qemu-kvm", "-name", "guest=other", "-m", "4096")
    process(tmp_path, 4, "vim", "guest=golden-c")
    (tmp_path / "5").mkdir()
    assert declared(proc=tmp_path) == {"golden-a": 512, "golden-b": 2048}


def test_what_is_promised_counts_until_its_machine_runs(tmp_path: Path) -> None:
    process(tmp_path, 1, "qemu-system-x86_64", "-name", "guest=golden-a,debug-threads=on", "-m", "512")
    (tmp_path / "net").mkdir()
    (tmp_path / "net/unix").write_text(
        "Num       RefCount Protocol Flags    Type St Inode Path\n"
        "0000000000000000: 00000002 00000000 00000000 0002 01 11 @golden-memory:600:77.1:golden-a\n"
        "0000000000000000: 00000002 00000000 00000000 0002 01 12 @golden-memory:300:77.2:golden-b\n"
        "0000000000000000: 00000002 00000000 00000000 0002 01 13 @golden-memory:much:77.2:golden-c\n"
        "0000000000000000: 00000002 00000000 00000000 0002 01 14 /run/golden-memory:1:1.1:golden-d\n"
        "0000000000000000: 00000002 00000000 00000000 0002 01 15\n"
    )
    assert declared(proc=tmp_path) == {"golden-a": 512, "golden-b": 300}
    assert declared(proc=tmp_path, besides="golden-b") == {"golden-a": 512}
    # A machine that runs counts, whoever it is promised to.
    assert declared(proc=tmp_path, besides="golden-a") == {"golden-a": 512, "golden-b": 300}


def test_what_does_not_fit_is_refused_with_who_has_it() -> None:
    need(512, Capacity(total_mib=1024), names="web1", in_use={"golden-a": 512})
    with pytest.raises(HostError, match="there is no memory for web1: 513 MiB are needed, 512 MiB are free") as caught:
        need(513, Capacity(total_mib=1024), names="web1", in_use={"golden-a": 512})
    assert ("in use", "512 MiB by 1: golden-a 512") in caught.value.details
    with pytest.raises(HostError, match="web1 would need 2048 MiB of memory, and golden's machines have 1024 MiB"):
        need(2048, Capacity(total_mib=1024), names="web1", in_use={})
