"""Nights of the sandbox: what they cost when nothing, one package, or everything changed, and what clients download.

    PYTHONPATH=. python3 benchmarks/nights.py --file golden.toml --state STATE --json docs/benchmarks-nights.json

`golden nightly` of --image and all that it stands on, night after night, in a copy of the project and its store. The
first one verifies and publishes what is there. Then nothing changes; then the repository of updates has one package
anew, of --update-mib MiB that cannot be compressed, which an upgrade takes; then the base's disk is larger, so that all
is built anew. After each, a client that has the image runs `dnf upgrade` over http on loopback; it installed it after
the first.

Machines are counted as they are: QEMU's processes with a file of this store, looked for twice a second. Published are
the bytes that are new below the folder of the channels. Downloaded is what the web server sent. About 10 minutes on 2
processors without KVM.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from benchmarks.conditions import Run
from benchmarks.golden import Golden
from benchmarks.results import figure, leave, times
from benchmarks.small_layers import add_update, with_own_updates
from builder.store import Store
from builder.tools import dnf, webserver
from builder.units import MIB

CHANNEL = "nightly"
LOOK_S = 0.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, required=True, help="the sandbox's golden.toml")
    parser.add_argument("--state", type=Path, required=True, help="golden's state directory, with the images built")
    parser.add_argument("--image", default="sandbox-tools-installed")
    parser.add_argument("--update-mib", type=int, default=1, help="of the package that changes")
    parser.add_argument("--json", type=Path, help="write the result here, and a plot beside it (needs matplotlib)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="golden-nights-", dir="/var/tmp") as folder:
        bench = Bench(arguments.file.absolute(), arguments.state.absolute(), Path(folder), image=arguments.image)
        run = Run(bench.state)
        result = bench.measure(update_mib=arguments.update_mib)
        result |= run.said(accelerator=result["nights"][0]["accelerator"])
    leave(result, arguments.json, plot=plot)
    return 0


class Bench:
    """One project, in `folder`."""

    def __init__(self, file: Path, state: Path, folder: Path, *, image: str) -> None:
        self.file, self.state, self.folder, self.image = with_own_updates(file, folder), folder / "state", folder, image
        shutil.copytree(state, self.state, symlinks=True)
        self.store = Store(self.state, "sandbox")
        self.golden = Golden(self.file, self.state)

    def measure(self, *, update_mib: int) -> dict[str, Any]:
        nights = [self.night("the first")]
        with serving(self.store.channels) as (url, sent):
            client = Client(self.folder / "client", url=url, sent=sent)
            self.golden("repo", "client-config", "--channel", CHANNEL, "--url", url, "-o", str(client.config))
            nights[0] |= client.install(f"golden-{self.image}")
            nights.append(self.night("nothing changed") | client.upgrade())
            add_update(self.folder / "updates", self.folder, update_mib)
            nights.append(self.night("one package changed") | client.upgrade())
            change_everything(self.file)
            nights.append(self.night("everything changed") | client.upgrade())
        return {
            "image": self.image,
            "images": nights[0]["images"],
            "update_mib": update_mib,
            "nights": nights,
        }

    def night(self, name: str) -> dict[str, Any]:
        before = files(self.store.channels)
        with machines(self.state) as seen:
            begin = time.monotonic()
            found = self.golden.json("nightly", "--channel", CHANNEL, self.image)
            seconds = time.monotonic() - begin
        after = files(self.store.channels)
        turns = found["turns"]
        row = {
            "night": name,
            "images": len(turns),
            "built": sum(turn["outcome"] == "built" for turn in turns),
            "machines": len(seen),
            "seconds": round(seconds, 1),
            "published_bytes": sum(size for file, size in after.items() if file not in before),
            "accelerator": found["accelerator"],
        }
        print(f"{name}: {row['seconds']} s, {row['machines']} machines", file=sys.stderr, flush=True)
        return row


def change_everything(file: Path) -> None:
    """Another size of the base's disk: nothing of what is there can stand."""
    text = file.read_text(encoding="utf-8")
    changed = text.replace('disk = "4 GiB"', 'disk = "5 GiB"')
    if changed == text:
        sys.exit(f"{file} is not the sandbox's: its base has no disk of 4 GiB")
    file.write_text(changed, encoding="utf-8")


class Client:
    """A root of its own, into which dnf installs. sent: how many bytes the web server has sent so far, [0]."""

    def __init__(self, folder: Path, *, url: str, sent: list[int]) -> None:
        folder.mkdir()
        self.config, self._folder, self._sent = folder / "golden.repo", folder, sent

    def install(self, name: str) -> dict[str, Any]:
        return self._dnf("install", name)

    def upgrade(self) -> dict[str, Any]:
        # As a client of the next morning: what the channel has is asked for anew.
        return self._dnf("--refresh", "upgrade")

    def _dnf(self, *words: str) -> dict[str, Any]:
        before, begin = self._sent[0], time.monotonic()
        root, cache = self._folder / "root", self._folder / "cache"
        root.mkdir(exist_ok=True)
        argv = dnf.argv(*words, root=root, repo_file=self.config, cache=cache)
        subprocess.run(argv, check=True, stdout=sys.stderr)
        return {
            "client_s": round(time.monotonic() - begin, 1),
            "downloaded_bytes": self._sent[0] - before,
        }


class _Counting(webserver._Handler):
    def __init__(self, *arguments: Any, sent: list[int], lock: threading.Lock, **more: Any) -> None:
        self._sent, self._lock = sent, lock
        super().__init__(*arguments, **more)

    def copyfile(self, source: Any, outputfile: Any) -> None:
        super().copyfile(source, _Counted(outputfile, self._sent, self._lock))


class _Counted:
    def __init__(self, stream: IO[bytes], sent: list[int], lock: threading.Lock) -> None:
        self._stream, self._sent, self._lock = stream, sent, lock

    def write(self, data: bytes) -> None:
        # Before: whoever has got it may ask at once.
        with self._lock:
            self._sent[0] += len(data)
        self._stream.write(data)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """As `webserver.serving`, with a count of the bytes sent, without headers, in [0]."""
    sent = [0]
    handler = partial(_Counting, sent=sent, lock=threading.Lock(), directory=str(folder.resolve()))
    with webserver.listening(handler, what=str(folder)) as server:
        yield server.url, sent


def files(folder: Path) -> dict[tuple[int, float], int]:
    """Files below `folder` -> bytes. One that several names lead to is there once; one that is written anew is new."""
    found = (path.lstat() for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {(it.st_ino, it.st_mtime): it.st_size for it in found}


@contextlib.contextmanager
def machines(state: Path) -> Iterator[set[str]]:
    """Which QEMUs with a file below `state` were there while the block ran; whole at its end."""
    seen: set[str] = set()
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(LOOK_S):
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    words = (process / "cmdline").read_bytes().split(b"\0")
                    is_qemu = b"qemu" in Path(os.fsdecode(words[0])).name.encode() and b"qemu-img" not in words[0]
                    if is_qemu and any(os.fsencode(state) in word for word in words):
                        seen.add(process.name)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        thread.join()


def plot(found: dict[str, Any], target: Path) -> None:
    """Time and machines, and bytes, of each night."""
    with figure(target, (11, 4), ncols=2) as (_, (times, sizes)):
        nights = found["nights"]
        names = [night["night"].replace(" changed", "\nchanged") for night in nights]
        bars = times.bar(names, [night["seconds"] for night in nights])
        for bar, night in zip(bars, nights, strict=True):
            text = f"{night['seconds']:.0f} s,\n{night['machines']} machines"
            times.annotate(text, (bar.get_x() + bar.get_width() / 2, bar.get_height()), ha="center", va="bottom")
        times.margins(y=0.2)
        times.set_ylabel("the night, s")
        for at, key in ((-0.2, "published_bytes"), (0.2, "downloaded_bytes")):
            values = [night[key] / MIB for night in nights]
            sizes.bar([number + at for number in range(len(nights))], values, 0.4, label=key.removesuffix("_bytes"))
        sizes.set_xticks(range(len(nights)), names)
        sizes.set_yscale("symlog", linthresh=0.1)
        sizes.set_ylabel("MiB")
        sizes.legend()


def section(found: dict[str, Any]) -> dict[str, Any]:
    """For docs/benchmarks.md, see page.py."""
    return {
        "title": "Nights",
        "about": f"""
`golden nightly` of {found["image"]} and all that it stands on, {found["images"]} images, one night after the other. The
first verifies and publishes what is there. One package: its repository has one anew, of {found["update_mib"]} MiB that
cannot be compressed. Everything: the base's disk has another size. A client installs the image after the first night,
and runs `dnf upgrade` after each other one, over http on loopback.

Machines are QEMU's processes that were seen: installers, libguestfs' appliances, clones that are verified. Published is
what is new below the channels' folder, RPMs and metadata. Downloaded is what the web server sent to the client.""",
        "tables": [
            {
                "head": [
                    *(
                        "night",
                        "built",
                        "machines",
                        "time, s",
                        "published, MiB",
                        "downloaded, MiB",
                        "the client's time, s",
                    ),
                ],
                "rows": [
                    [
                        night["night"],
                        night["built"],
                        night["machines"],
                        f"{night['seconds']:.1f}",
                        f"{night['published_bytes'] / MIB:.2f}",
                        f"{night['downloaded_bytes'] / MIB:.2f}",
                        f"{night['client_s']:.1f}",
                    ]
                    for night in found["nights"]
                ],
            }
        ],
        "plots": ["benchmarks-nights.svg"],
        "notes": notes(found["nights"]),
    }


def notes(nights: list[dict[str, Any]]) -> str:
    """The nights against the one in which everything changed."""
    *less, everything = nights
    words = {"seconds": "the time", "published_bytes": "is published", "downloaded_bytes": "is downloaded"}
    said = []
    for night in less[1:]:
        ratios = [f"{times(everything[key], night[key])} {word}" for key, word in words.items() if night[key]]
        said.append(f"Where {everything['night']}, against {night['night']}: {', '.join(ratios)}.")
    return " ".join(said)


if __name__ == "__main__":
    sys.exit(main())
