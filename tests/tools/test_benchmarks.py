"""Each benchmark in small: what it measures is there, and the page can be made of it. No guests, no figures."""

from __future__ import annotations

import importlib
import os
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import (
    bootstrap_once,
    clones,
    conditions,
    depth,
    depth_boots,
    growth,
    nights,
    overhead,
    package_install,
    parallel_tests,
    plan,
    publish,
    real_sparrowdo,
    small_layers,
    torture,
)
from builder.config import load
from builder.plan import order
from builder.tools.free_port import free_port

TOP = Path(__file__).parents[2]
PAGE = runpy.run_path(str(TOP / "benchmarks/page.py"))
SANDBOX = """\
[project]
name = "sandbox"
ssh_key = "keys/id_ed25519"
[distribution.sandbox]
inherits = "el9"
source = { dvd = "sandbox.iso" }
repositories = { updates = "updates" }
[image.sandbox-base]
distribution = "sandbox"
disk = "4 GiB"
"""


def on_page(section: dict[str, Any], found: dict[str, Any], folder: Path) -> str:
    """As the page shows it, with plots that are there, of a run like any other."""
    for plot in section.get("plots", ()):
        (folder / plot).touch()
    text: str = PAGE["_text"](found | conditions.Run().said() | section, folder)
    return text


@pytest.mark.parametrize("script", sorted(it.stem for it in (TOP / "benchmarks").glob("*.py")))
def test_every_script_can_be_started(script: str) -> None:
    assert importlib.import_module(f"benchmarks.{script}").__doc__


def test_a_layer_goes_all_ways_to_a_client(tmp_path: Path) -> None:
    found = package_install.measure(tmp_path, 2, rounds=1) | conditions.Run().said()
    assert set(found["ways"]) == set(package_install.NAMES)
    for way in found["ways"].values():
        assert way["bytes"] > 0
        assert way["at_1_gbit_s"] == pytest.approx(way["total_s"] + way["bytes"] / 125_000_000, abs=0.02)
    package_install.plot(found, tmp_path / "plot.svg")
    assert "| RPM with xz -9 |" in on_page(package_install.section(found), found, tmp_path)


def test_the_run_with_the_median_is_shown() -> None:
    runs = [{"total_s": 3.0, "a": 1}, {"total_s": 1.0, "a": 2}, {"total_s": 2.0, "a": 3}]
    assert package_install.middle(runs) == {"total_s": 2.0, "a": 3, "runs_s": [3.0, 1.0, 2.0]}


def test_growth_is_measured_of_plans_channels_and_clones(tmp_path: Path) -> None:
    found = growth.measure([10], [4], [2], rounds=1)
    for part, what in growth.PARTS:
        (row,) = found[part]
        assert row[what] > 0
        assert row["seconds"] > 0
        assert row["peak_bytes"] > 2**20
    growth.plot(found, tmp_path / "plot.svg")
    assert "| images in the project | plan, s | memory, MiB |" in on_page(growth.section(found), found, tmp_path)


def test_readers_read_chains_and_the_flat_file(tmp_path: Path) -> None:
    tops = depth.make_chain(tmp_path, disk_mib=8, layer_mib=1)
    flat = depth.flatten(tops[5], tmp_path / "flat.qcow2")
    for read in (depth.bench(8 * 2**20), depth.whole):
        read(tops[5])
        read(flat)
    assert depth.chain_bytes(tops[5]) > depth.chain_bytes(tops[1]) > 0


def test_boots_are_of_a_project_that_golden_reads(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "updates").mkdir(parents=True)
    (project / "golden.toml").write_text(SANDBOX)
    (project / "keys").mkdir()
    (project / "sandbox.iso").touch()
    (tmp_path / "copy").mkdir()
    file = depth_boots.with_layers(project / "golden.toml", tmp_path / "copy")
    assert order(load(file), ["sandbox-deep-5"]) == [depth_boots.image_of(number) for number in depth_boots.DEPTHS]


def test_a_boots_layer_writes_every_fifth_file_anew(tmp_path: Path) -> None:
    files = [tmp_path / f"a file {number}" for number in range(5)]
    for file in files:
        file.write_text(file.name)
        file.chmod(0o640)
    before = {file: file.stat().st_ctime_ns for file in files}  # the number of a file's inode may be taken again
    command = depth_boots.REWRITE.format(parts=5, part=1).replace("/usr", str(tmp_path))
    subprocess.run(["sh", "-euc", command], check=True)
    assert [file.name for file in files if file.stat().st_ctime_ns != before[file]] == ["a file 0"]
    assert {file.read_text() for file in files} == {file.name for file in files}
    assert {file.stat().st_mode & 0o777 for file in files} == {0o640}


def test_bare_commands_run_beside_their_servers_and_leave_no_build(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (tmp_path / "served").write_text("served")
    port = free_port()
    address = f"http://127.0.0.1:{port}/served"
    lines = [
        f"{sys.executable} -m http.server --bind 127.0.0.1 --directory {tmp_path} {port} &",
        f"curl --fail --silent -o {tmp_path}/got {address}",
        f"cp {tmp_path}/got {target}",
    ]
    assert min(overhead.bare([{"title": "t", "line": line} for line in lines])) > 0
    assert (tmp_path / "got").read_text() == "served"
    assert not target.exists()


def test_overhead_is_a_share_of_the_bare_commands(tmp_path: Path) -> None:
    row = overhead.row("demo", [(11.0, 4.0), (10.4, 4.0), (10.5, 3.0)], [(10.0, 2.0), (12.0, 2.0), (9.0, 2.0)])
    assert row["overhead"] == 0.05
    found = {"images": [row, row | {"overhead": 0.06}]}
    text = on_page(overhead.section(found), found, tmp_path)
    assert "| demo | 3 | 10.5 | 10.0 | 0.5 | 5.0% | 4.0 | 2.0 |" in text
    assert text.endswith("At most 5% was the limit, which this run did not keep.\n")
    overhead.plot(found, tmp_path / "plot.svg")


def test_what_a_client_downloads_is_counted(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3000))
    with nights.serving(tmp_path) as (url, sent):
        for _ in range(2):
            subprocess.run(["curl", "--fail", "--silent", "-o", tmp_path / "got", f"{url}/file"], check=True)
        assert sent == [6000]


def test_machines_of_this_store_are_counted_and_no_others(tmp_path: Path) -> None:
    mine, others = tmp_path / "mine", tmp_path / "others"
    started = []
    with nights.machines(mine) as seen:
        try:
            for folder in (others, mine):
                folder.mkdir()
                (folder / "disk").touch()
                words = ["qemu-system-fake", "-f", folder / "disk"]
                started.append(subprocess.Popen(words, executable=shutil.which("tail"), stdout=subprocess.DEVNULL))
            while not seen:
                assert started[-1].poll() is None
                time.sleep(0.05)
        finally:
            for process in started:
                process.kill()
                process.wait()
    assert seen == {str(started[-1].pid)}


def test_what_is_written_anew_is_published_once_whatever_its_names(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(10))
    before = nights.files(tmp_path)
    os.link(tmp_path / "a", tmp_path / "b")
    assert nights.files(tmp_path) == before
    (tmp_path / "c").write_bytes(bytes(7))
    assert [size for file, size in nights.files(tmp_path).items() if file not in before] == [7]


def test_nights_are_shown(tmp_path: Path) -> None:
    row = {"built": 2, "machines": 4, "seconds": 61.24, "published_bytes": 2**20, "downloaded_bytes": 2**19}
    found = {
        "image": "sandbox-tools-installed",
        "images": 3,
        "update_mib": 1,
        "nights": [
            {"night": "the first", "client_s": 1.0, **row},
            {"night": "nothing changed", "client_s": 1.0, **row, "seconds": 1.0, "published_bytes": 0},
            {"night": "everything changed", "client_s": 1.0, **row},
        ],
    }
    nights.plot(found, tmp_path / "plot.svg")
    text = " ".join(on_page(nights.section(found), found, tmp_path).split())
    assert "| everything changed | 2 | 4 | 61.2 | 1.00 | 0.50 | 1.0 |" in text
    assert "Where everything changed, against nothing changed: 61.2 times the time, 1.00 times is downloaded." in text


def test_all_changes_with_the_size_of_the_bases_disk(tmp_path: Path) -> None:
    file = tmp_path / "golden.toml"
    file.write_text(SANDBOX)
    nights.change_everything(file)
    assert 'disk = "5 GiB"' in file.read_text()
    with pytest.raises(SystemExit, match=r"is not the sandbox's: its base has no disk of 4 GiB"):
        nights.change_everything(file)


def test_an_update_is_a_newer_package_in_the_repository(tmp_path: Path) -> None:
    updates = tmp_path / "updates"
    (updates / "Packages").mkdir(parents=True)
    small_layers.add_update(updates, tmp_path, 1)
    (rpm,) = updates.rglob("*.rpm")
    assert rpm.name == "sandbox-facts-99-1.noarch.rpm"
    assert (updates / "repodata/repomd.xml").exists()


def test_work_of_others_is_seen() -> None:
    run = conditions.Run()
    _, busy = conditions.timed(lambda: sum(range(10**6)))
    assert busy > 0
    found = run.said(accelerator="tcg")
    assert found["others_processors"] >= 0
    assert found["busy"] is (found["others_processors"] > conditions.BUSY)
    assert found["machine"]["accelerator"] == "tcg"


def test_libvirts_machines_of_a_runs_state_are_its_own_work(tmp_path: Path) -> None:
    mine, others = tmp_path / "mine", tmp_path / "others"
    work = "import sys, time\nwhile time.process_time() < 0.5: pass\nprint('done', flush=True)\nsys.stdin.read()"
    started = []
    seen = {folder: conditions._Machines([folder]) for folder in (mine, tmp_path / "nobody's")}
    try:
        for folder in (others, mine):
            words = ["qemu-system-fake", "-c", work, "guest=demo,debug-threads=on", str(folder / "disk")]
            process = subprocess.Popen(
                words, executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            started.append(process)
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "done\n"
        worked_s, nothing_s = (it.end() for it in seen.values())
    finally:
        for process in started:
            process.communicate("")
    assert worked_s > 0.4
    assert nothing_s == 0


def test_the_machine_is_shown() -> None:
    shown = PAGE["machine"](conditions.machine() | {"accelerator": "tcg", "qemu": "7.2"})
    assert shown.endswith(f"GiB of memory, Linux {os.uname().release}, tcg, QEMU 7.2")


def test_a_command_is_told_without_this_machines_places() -> None:
    argv = ["/x/benchmarks/small_layers.py", "--file", "/x/golden.toml", "--state=/y", "--add-mib", "0", "128"]
    assert conditions.command([*argv, "--json", "/tmp/a.json"]) == (
        "PYTHONPATH=. python3 benchmarks/small_layers.py --file golden.toml --state=STATE --add-mib 0 128 "
        "--json docs/benchmarks-small-layers.json"
    )
    assert conditions.command(["plan.py"]) == "PYTHONPATH=. python3 benchmarks/plan.py"


def test_tests_are_left_out_that_would_come_too_late() -> None:
    took = [{"seconds": 50.0}, {"seconds": 60.0}]
    now_s = time.monotonic()
    assert bootstrap_once.is_time_for_more([], [], until_s=now_s - 1)
    assert bootstrap_once.is_time_for_more(took, took, until_s=now_s + 1000)
    assert not bootstrap_once.is_time_for_more(took, took, until_s=now_s + 119)


class Told:
    """In the place of golden: it does nothing, and says what a benchmark asks it for."""

    def __init__(self, folder: Path) -> None:
        self.state, self.words = folder / "state", list[tuple[str, ...]]()
        (self.state / "clones/bench-bootstrap").mkdir(parents=True)
        (self.state / "clones/bench-bootstrap/disk.qcow2").write_bytes(bytes(8192))

    def __call__(self, *words: str) -> str:
        self.words.append(words)
        return ""

    def json(self, *words: str) -> Any:
        self.words.append(words)
        if words[0] == "build":
            return [{"accelerator": "tcg", "size_bytes": 2**20}]
        return {"results": [{"outcomes": [{"boot_s": 1.5}]}]}


def test_a_bootstrap_in_each_test_stands_beside_one_in_the_image(tmp_path: Path) -> None:
    golden = Told(tmp_path)
    found = bootstrap_once.measure(golden, tmp_path, tests=2, until_s=time.monotonic() + 600)  # type: ignore[arg-type]
    images = [words[-1] for words in golden.words if words[:2] == ("clone", "create")]
    assert images == ["sandbox-upgrade", bootstrap_once.IMAGE] * 2
    found |= conditions.Run().said(accelerator="tcg")
    for way, seconds in (("each", 60.0), ("once", 30.0)):
        for test in found[way]["tests"]:
            test["seconds"] = seconds
    bootstrap_once.plot(found, tmp_path / "plot.svg")
    text = " ".join(on_page(bootstrap_once.section(found), found, tmp_path).split())
    assert "Measured: the build, and 2 of the tests in each way" in text
    assert "| 70, extrapolated | 4200 | 2100 |" in text
    assert "70 tests: with the bootstrap in each, 2.0 times the time, extrapolated." in text


def test_tests_in_parallel_stand_beside_those_one_after_the_other(tmp_path: Path) -> None:
    memory = {"stem": "demo", "circumstances": {"memory_mib": 64}}
    found = parallel_tests.measure(Told(tmp_path), memory, "demo", cold=True)  # type: ignore[arg-type]
    assert [(it["jobs"], it["tests"], it["is_cold"]) for it in found["runs"]][:3] == [
        (1, 2, False),
        (2, 4, False),
        (4, 8, False),
    ]
    for it in found["runs"]:
        it["seconds"] = 12.0
    parallel_tests.plot(found, tmp_path / "plot.svg")
    text = " ".join(on_page(parallel_tests.section(found), found, tmp_path).split())
    assert "From memory, 1 at once: 4.0 times the time for each test of that with 4 at once." in text


def test_clones_say_which_limits_were_kept(tmp_path: Path) -> None:
    found: dict[str, Any] = {
        "image": "demo",
        "clones": 70,
        "made_s": 0.5,
        "removed_s": 1.0,
        "clones_bytes": 2**20,
        "largest_clone_bytes": 2**10,
        "one_copy_bytes": 2**20,
        "copies_bytes_computed": 70 * 2**20,
        "copies_s_computed": 35.0,
        "cold_s": [15.0],
        "warm_s": [1.5],
    }
    found |= {f"{kind}_{part}_s": found[f"{kind}_s"][0] for kind in ("cold", "warm") for part in ("p50", "p95")}
    text = " ".join(on_page(clones.section(found), found, tmp_path).split())
    assert "Copies take 70.0 times the time and 70.0 times the room of clones (computed)." in text
    assert "A cold start takes 10.0 times a warm one, of the medians." in text
    assert "70 clones in less than 5 s: kept; " in text
    assert text.endswith("a warm start in 1/15 of a cold one: not kept.")


def test_layers_are_drawn_and_their_limit_is_told(tmp_path: Path) -> None:
    layer = {"packages_changed": 3, "new_data_bytes": 2**20, "golden_s": 30.0, "plain_s": 20.0}
    layer |= {"golden_bytes": 2**21, "plain_bytes": 2**23, "limit_bytes": 2**26}
    found = {"layers": [layer, layer]}
    small_layers.plot(found, tmp_path / "plot.svg")
    text = " ".join(on_page(small_layers.section(found), found, tmp_path).split())
    assert "golden's room: 4.0 times with 1.0 MiB of new data" in text
    assert "The limit was kept in this run." in text


def test_plans_and_publications_are_drawn(tmp_path: Path) -> None:
    times = {f"{what}, s": 1.0 for what in ("first plan", "nothing changed")}
    plans = {"rows": [{"images": 10, **times}, {"images": 100, **times}], "night": {"images": 4, "seconds": 1}}
    plans["night"] |= {"longest_s": 1}
    plan.plot(plans, tmp_path / "plan.svg")
    text = " ".join(on_page(plan.section(plans), plans, tmp_path).split())
    assert '100 images against 10 take 1.00 times the time of "first plan"' in text
    parts = dict.fromkeys(publish.PARTS, 0.1)
    row = {"new_bytes": 1, "publish_s": 0.5, "publish_fastest_s": 0.4, "publish_processor_s": 0.1}
    row |= {"nothing_new_s": 0.1, "createrepo_c_full_s": 1.0}
    channels = [{"rpms_before": size, "parts_processor_s": parts, **row} for size in (10, 1000)]
    found = {"large_mib": 1, "rounds": 5, "channels": channels}
    publish.plot(found, tmp_path / "publish.svg")
    text = " ".join(on_page(publish.section(found), found, tmp_path).split())
    assert "createrepo_c over all of 1000: 2.0 times golden's" in text


def test_what_was_measured_by_tests_is_drawn(tmp_path: Path) -> None:
    real = {"sparrowdo": "1", "raku": "2", "sparrow6": "3", **dict.fromkeys(real_sparrowdo.STEPS, 10)}
    real_sparrowdo.plot(real, tmp_path / "real.svg")
    assert "| the bootstrap | 10 |" in on_page(real_sparrowdo.section(real), real, tmp_path)
    trials = [{"scenario": "build", "kind": "SIGKILL for golden", "wrong": wrong} for wrong in ([], ["a lock is left"])]
    found: dict[str, Any] = {"trials": trials, "seed": 1, "tried": 2, "survived": 1, "planned": 3, "missed": 0}
    found |= {"places": 2, "seconds": 1.0, "dnf_installations": 1, "pairs_covered": ["a"], "pairs_left": ["b", "c"]}
    found |= conditions.Run().said() | {"command": "make torture"}
    torture.plot(found, tmp_path / "torture.svg")
    text = " ".join(on_page(torture.section(found), found, tmp_path).split())
    assert "| build | 2 | 1 |" in text
    assert "there was no time for 1 more" in text
    assert "The trials are of 1 of the 3 pairs of a command and a kind of fault" in text
    assert "journal" not in text
    assert "went on from a journal" in torture.section(found | {"command": "make torture ARGS='--journal it'"})["notes"]
