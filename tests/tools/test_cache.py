"""The cache of downloads: with a real web server, real gpg, real qemu-img, and the command line as users have it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.cache import Cache
from builder.errors import VerifyError
from builder.tools import qemu_img
from tests.commands import Ended, started
from tests.keys import Signer, signing
from tests.mirror import File, Mirror, mirror
from tests.tools.test_corruption import flip


def iso(content: bytes, *, declared: int | None = None) -> bytes:
    """What is known as a DVD image: a volume descriptor, and `content` behind it."""
    data = bytearray(16 * 2048 + 2048) + content
    data += bytes(-len(data) % 2048)
    data[16 * 2048 : 16 * 2048 + 6] = b"\x01CD001"
    data[16 * 2048 + 80 : 16 * 2048 + 84] = (declared or len(data) // 2048).to_bytes(4, "little")
    data[16 * 2048 + 128 : 16 * 2048 + 130] = (2048).to_bytes(2, "little")
    return bytes(data)


DVD = iso(os.urandom(1_500_000))
OTHER_DVD = iso(os.urandom(1_500_000))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Project:
    """golden with a project of one distribution and its base, against one mirror."""

    folder: Path
    server: Mirror

    @property
    def cache(self) -> Path:
        return self.folder / "state" / "cache"

    def source(self, text: str, *, disk: str = "4 GiB") -> None:
        (self.folder / "golden.toml").write_text(
            '[distribution.trial]\ninherits = "el9"\n'
            f"source = {{ {text} }}\n"
            f'[image.trial-base]\ndistribution = "trial"\ndisk = "{disk}"\n'
        )

    def started(self, *words: str) -> subprocess.Popen[str]:
        own = {"GOLDEN_FILE": str(self.folder / "golden.toml"), "GOLDEN_STATE": str(self.folder / "state")}
        return started(*words, environment=os.environ | own)

    def __call__(self, *words: str, expect: int = 0) -> Ended:
        with self.started(*words) as process:
            stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == expect, stdout + stderr
        return Ended(process.returncode, stdout, stderr)

    def fetched(self) -> Path:
        return Path(self("cache", "fetch", "--json").json["trial-base"])

    def left(self) -> list[str]:
        """What is in the cache, but for locks and what is known of addresses."""
        kept = [path for folder in ("files", "partial") for path in (self.cache / folder).rglob("*") if path.is_file()]
        return sorted(str(path.relative_to(self.cache)) for path in kept)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "id_ed25519.pub").write_text("ssh-ed25519 AAAA trial\n")
    with mirror() as server:
        yield Project(tmp_path, server)


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signer]:
    with signing(tmp_path_factory.mktemp("signer")) as made:
        yield made


# --- what is downloaded, and what is not


def test_a_file_with_a_digest_is_downloaded_once(project: Project) -> None:
    project.source(f'dvd = "{project.server.put("x.iso", DVD)}", sha256 = "{sha256(DVD)}"')
    file = project.fetched()
    assert file == project.cache / "files" / sha256(DVD) / "x.iso"
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (DVD, 0o444)
    assert project.fetched() == file
    assert len(project.server.requests) == 1
    (entry,) = project("cache", "list", "--json").json
    assert (entry["distribution"], entry["state"], entry["verified"]) == ("trial", "whole", "sha256 of golden.toml")


def test_a_file_without_a_digest_is_asked_for_and_fetched_when_it_changed(project: Project) -> None:
    project.source(f'dvd = "{project.server.put("x.iso", DVD)}"')
    first = project.fetched()
    assert project.fetched() == first
    assert [request.status for request in project.server.requests] == [200, 304]
    project.server.files["/x.iso"] = File(OTHER_DVD, changed=1_800_000_000)
    second = project.fetched()
    assert (first.read_bytes(), second.read_bytes()) == (DVD, OTHER_DVD)
    verified = "not verified: golden.toml has neither sha256 nor checksums"
    assert {entry["verified"] for entry in project("cache", "list", "--json").json} == {verified}


def test_a_server_that_fails_does_no_harm_while_the_file_is_here(project: Project) -> None:
    project.source(f'dvd = "{project.server.put("x.iso", DVD)}"')
    file = project.fetched()
    project.server.faults["/x.iso"] = [404]
    ended = project("--progress", "plain", "cache", "fetch", "--json")
    assert ended.json == {"trial-base": str(file)}
    assert "the server answered 404 Not Found; taken as it was when it was last asked" in ended.stderr


def test_what_was_learned_without_a_proof_is_no_proof(project: Project) -> None:
    url = project.server.put("x.iso", DVD)
    project.source(f'dvd = "{url}"')
    project.fetched()
    project.source(f'dvd = "{url}", checksums = "{project.server.url}/SUMS"')
    ended = project("cache", "fetch", expect=4)
    assert f"golden: error: could not download {project.server.url}/SUMS\n" in ended.stderr


def test_a_local_file_is_verified_by_a_checksum_file(project: Project) -> None:
    (project.folder / "x.iso").write_bytes(DVD)
    (project.folder / "SUMS").write_text(f"{sha256(DVD)}  x.iso\n")
    project.source('dvd = "x.iso", checksums = "SUMS"')
    assert project.fetched() == project.folder / "x.iso"
    (project.folder / "SUMS").write_text(f"{'0' * 64}  x.iso\n")
    ended = project("cache", "fetch", expect=5)
    assert f"golden: error: {project.folder}/x.iso is not the file that it should be\n" in ended.stderr
    (project.folder / "x.iso").unlink()
    assert f"the DVD is not there: {project.folder}/x.iso\n" in project("cache", "fetch", expect=2).stderr


def test_signed_checksums_say_the_digest(project: Project, signer: Signer) -> None:
    sums = project.folder / "CHECKSUM"
    sums.write_text(f"{sha256(DVD)}  x.iso\n")
    put = project.server.put
    project.source(
        f'dvd = "{put("x.iso", DVD)}", checksums = "{put("CHECKSUM", sums.read_bytes())}", '
        f'signature = "{put("CHECKSUM.asc", signer.detached(sums).read_bytes())}", key = "{signer.key}"'
    )
    assert project.fetched().read_bytes() == DVD
    assert project.fetched().read_bytes() == DVD
    assert len(project.server.asked("x.iso")) == 1
    (entry,) = project("cache", "list", "--json").json
    assert entry["verified"] == f"{project.server.url}/CHECKSUM, signed"
    assert project.left() == [f"files/{sha256(DVD)}/.facts.json", f"files/{sha256(DVD)}/x.iso"]


def test_a_clearsigned_checksum_file(project: Project, signer: Signer) -> None:
    sums = project.folder / "CHECKSUM"
    sums.write_text(f"# x.iso: {len(DVD)} bytes\nSHA256 (x.iso) = {sha256(DVD)}\n")
    put = project.server.put
    checksums = put("CHECKSUM", signer.clearsigned(sums).read_bytes())
    project.source(f'dvd = "{put("x.iso", DVD)}", checksums = "{checksums}", key = "{signer.key}"')
    assert project.fetched().read_bytes() == DVD


def test_a_plan_needs_no_network_once_the_digest_is_known(project: Project) -> None:
    project.source(f'dvd = "{project.server.put("x.iso", DVD)}"')
    unknown = "never built; DVD x.iso is not known before it is downloaded"
    assert project("plan", "--json").json[0]["reason"] == unknown
    assert project.server.requests == []
    project.fetched()
    asked = len(project.server.requests)
    project("cache", "prune", "--keep", "0")
    (planned,) = project("plan", "--json").json
    assert (planned["reason"], planned["inputs"]["DVD x.iso"]) == ("never built", sha256(DVD))
    assert len(project.server.requests) == asked


def test_a_plan_with_a_digest_in_golden_toml_needs_no_download(project: Project) -> None:
    project.source(f'dvd = "{project.server.put("x.iso", DVD)}", sha256 = "{sha256(DVD)}"')
    (planned,) = project("plan", "--json").json
    assert (planned["reason"], planned["inputs"]["DVD x.iso"]) == ("never built", sha256(DVD))
    assert project.server.requests == []


# --- bad luck


def test_a_broken_download_goes_on_in_the_next_run(project: Project) -> None:
    project.source(f'dvd = "{project.server.put("x.iso", DVD)}", sha256 = "{sha256(DVD)}"')
    project.server.faults["/x.iso"] = [("drop", 1_048_576), 404]
    ended = project("cache", "fetch", expect=4)
    assert "reason: the server answered 404 Not Found" in ended.stderr
    (entry,) = project("cache", "list", "--json").json
    assert (entry["state"], entry["size_bytes"], entry["distribution"]) == ("partial", 1_048_576, "trial")
    assert not list(project.cache.glob("files/*"))
    assert project.fetched().read_bytes() == DVD
    assert project.server.requests[-1].headers["Range"] == "bytes=1048576-"
    assert not list(project.cache.glob("partial/*"))


def test_an_interrupted_download_goes_on_in_the_next_run(project: Project) -> None:
    project.source(f'dvd = "{project.server.put("x.iso", DVD)}", sha256 = "{sha256(DVD)}"')
    project.server.faults["/x.iso"] = [("drop", 1_048_576)]
    project.server.hold_after = 1
    with project.started("cache", "fetch") as process:
        assert project.server.held.wait(timeout=60)
        process.terminate()
        assert process.communicate(timeout=60)[1].endswith(
            "golden: interrupted; what was finished stays, and the next run goes on from there\n"
        )
    assert process.returncode == 130
    assert not list(project.cache.glob("files/*"))
    project.server.hold.set()
    assert project.fetched().read_bytes() == DVD
    assert project.server.requests[-1].headers["Range"] == "bytes=1048576-"


def test_two_builds_download_once(project: Project) -> None:
    project.source(f'dvd = "{project.server.put("x.iso", DVD)}", sha256 = "{sha256(DVD)}"')
    project.server.hold.clear()
    words = ("--progress", "plain", "cache", "fetch", "--json")
    with project.started(*words) as first:
        assert project.server.arrived.wait(timeout=60)
        with project.started(*words) as second:
            assert second.stderr is not None
            for line in second.stderr:
                if f"another golden downloads it; waiting for pid {first.pid} since " in line:
                    break
            else:
                pytest.fail("the second golden did not say for whom it waits")
            project.server.hold.set()
            ended = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert ended[0] == ended[1]
    assert len(project.server.requests) == 1


@pytest.mark.parametrize("is_alone", [True, False], ids=["of golden.toml", "of a checksum file"])
def test_a_wrong_checksum(project: Project, is_alone: bool) -> None:
    wrong = "0" * 64
    how = f'sha256 = "{wrong}"'
    if not is_alone:
        how = f'checksums = "{project.server.put("SUMS", f"{wrong}  x.iso".encode())}"'
    project.source(f'dvd = "{project.server.put("x.iso", DVD)}", {how}')
    ended = project("cache", "fetch", expect=5)
    assert "golden: error: the download of x.iso is not the file that it should be\n" in ended.stderr
    said_by = "golden.toml" if is_alone else f"{project.server.url}/SUMS"
    assert f"expected: sha256 {wrong} ({said_by})\n" in ended.stderr
    assert f"found:    sha256 {sha256(DVD)}\n" in ended.stderr
    assert [name for name in project.left() if "x.iso" in name] == []


def test_golden_toml_and_the_checksum_file_disagree(project: Project) -> None:
    sums = project.server.put("SUMS", f"{'0' * 64}  x.iso".encode())
    project.source(f'dvd = "{project.server.put("x.iso", DVD)}", sha256 = "{sha256(DVD)}", checksums = "{sums}"')
    assert "golden.toml and the checksum file disagree on x.iso" in project("cache", "fetch", expect=5).stderr
    assert project.server.asked("x.iso") == []


def test_a_bad_signature_downloads_nothing(project: Project, signer: Signer) -> None:
    sums = project.folder / "CHECKSUM"
    sums.write_text(f"{'0' * 64}  x.iso\n")
    signature = signer.detached(sums).read_bytes()
    put = project.server.put
    project.source(
        f'dvd = "{put("x.iso", DVD)}", checksums = "{put("CHECKSUM", f"{sha256(DVD)}  x.iso".encode())}", '
        f'signature = "{put("CHECKSUM.asc", signature)}", key = "{signer.key}"'
    )
    ended = project("cache", "fetch", expect=5)
    assert f"the signature of {project.server.url}/CHECKSUM was refused: the signature does not fit" in ended.stderr
    assert project.server.asked("x.iso") == []


def test_a_missing_key(project: Project) -> None:
    put = project.server.put
    project.source(f'dvd = "{put("x.iso", DVD)}", checksums = "{put("CHECKSUM", b"")}", key = "keys/none.asc"')
    ended = project("cache", "fetch", expect=2)
    key = project.folder / "keys/none.asc"
    assert f"the key that {project.server.url}/CHECKSUM has to be signed with is not there: {key}\n" in ended.stderr


def test_the_key_of_the_distribution(project: Project, signer: Signer) -> None:
    sums = project.folder / "CHECKSUM"
    sums.write_text(f"{sha256(DVD)}  x.iso\n")
    put = project.server.put
    address = put("CHECKSUM", signer.clearsigned(sums).read_bytes())
    project.source(f'dvd = "{put("x.iso", DVD)}", checksums = "{address}", key = "distribution"')
    file = project.folder / "golden.toml"
    text = file.read_text()
    file.write_text(text.replace('inherits = "el9"', f'inherits = "el9"\ngpg_key = "{signer.key}"'))
    assert project.fetched().read_bytes() == DVD
    packaged = "/usr/share/distribution-gpg-keys/none/RPM-GPG-KEY-none"
    file.write_text(text.replace('inherits = "el9"', f'inherits = "el9"\ngpg_key = "{packaged}"'))
    ended = project("cache", "fetch", expect=2)
    assert f"has to be signed with is not there: {packaged}\n" in ended.stderr
    assert (
        "try: install distribution-gpg-keys (of Fedora and EPEL), or name a file of your own: gpg_key = "
        in ended.stderr
    )


@pytest.mark.parametrize("missing", ["SUMS", "SUMS.asc"])
def test_a_checksum_file_or_signature_that_is_not_there(project: Project, signer: Signer, missing: str) -> None:
    put = project.server.put
    dvd, sums = put("x.iso", DVD), put("SUMS", f"{sha256(DVD)}  x.iso".encode())
    project.server.files.pop(f"/{missing}", None)  # the signature never was
    project.source(
        f'dvd = "{dvd}", checksums = "{sums}", signature = "{project.server.url}/SUMS.asc", key = "{signer.key}"'
    )
    ended = project("cache", "fetch", expect=4)
    assert f"golden: error: could not download {project.server.url}/{missing}\n" in ended.stderr
    assert project.server.asked("x.iso") == []


def test_a_file_that_is_not_there(project: Project) -> None:
    project.source(f'dvd = "{project.server.url}/x.iso"')
    ended = project("cache", "fetch", expect=4)
    assert f"golden: error: could not download {project.server.url}/x.iso\n" in ended.stderr
    assert "reason: the server answered 404 Not Found\n" in ended.stderr
    assert project.left() == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<html>not here</html>", "is no DVD image: it has no ISO 9660 volume descriptor"),
        (DVD[:-5000], f"is cut short: its volume has {len(DVD)} bytes, the file {len(DVD) - 5000}"),
    ],
    ids=["a page", "cut short"],
)
def test_what_is_no_whole_dvd(project: Project, data: bytes, message: str) -> None:
    project.source(f'dvd = "{project.server.put("x.iso", data)}"')
    ended = project("cache", "fetch", expect=2)
    assert message in ended.stderr
    assert f"address: {project.server.url}/x.iso" in ended.stderr
    assert project.left() == []


def image(folder: Path, *words: str | Path, size: str = "8M") -> bytes:
    path = folder / "made.qcow2"
    path.unlink(missing_ok=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *words, path, size], check=True)
    return path.read_bytes()


def test_an_image_that_is_no_qcow2(project: Project) -> None:
    project.source(f'qcow2 = "{project.server.put("x.qcow2", bytes(100_000))}"')
    ended = project("cache", "fetch", expect=5)
    assert "the image file 'x.qcow2' is not fit for use: it is not a qcow2 file\n" in ended.stderr
    assert project.left() == []


def test_an_image_with_a_backing_file(project: Project) -> None:
    data = image(project.folder, "-u", "-F", "raw", "-b", "/etc/passwd")
    project.source(f'qcow2 = "{project.server.put("x.qcow2", data)}"')
    ended = project("cache", "fetch", expect=5)
    assert "not fit for use: it has a backing file; an image to import has to be whole by itself\n" in ended.stderr
    assert project.left() == []


def test_an_image_with_its_data_in_another_file(project: Project) -> None:
    outside = project.folder / "outside.raw"
    data = image(project.folder, "-o", f"data_file={outside},data_file_raw=on")
    project.source(f'qcow2 = "{project.server.put("x.qcow2", data)}"')
    ended = project("cache", "fetch", expect=5)
    assert "not fit for use: it keeps its data in another file (data-file)\n" in ended.stderr
    assert project.left() == []


def test_an_image_that_is_cut_short(project: Project) -> None:
    whole = project.folder / "whole.qcow2"
    qemu_img.create(whole, 8 * 1024**2)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 7 0 4M", whole], check=True)
    project.source(f'qcow2 = "{project.server.put("x.qcow2", whole.read_bytes()[:-2_000_000])}"')
    ended = project("cache", "fetch", expect=5)
    assert "the image file 'x.qcow2' is not fit for use: " in ended.stderr
    assert "corruptions" in ended.stderr
    assert project.left() == []


def test_an_image_larger_than_the_disk(project: Project) -> None:
    data = image(project.folder, size="3G")
    project.source(f'qcow2 = "{project.server.put("x.qcow2", data)}"', disk="2 GiB")
    ended = project("cache", "fetch", expect=2)
    assert "the disk of 'trial-base' (2.0 GiB) is smaller than the image x.qcow2 (3.0 GiB)\n" in ended.stderr
    assert 'try: in golden.toml: [image.trial-base] disk = "3 GiB"\n' in ended.stderr


# --- few are kept


def three(project: Project) -> list[Path]:
    """Three states of one DVD, oldest first."""
    found = []
    for number in range(3):
        project.source(f'dvd = "{project.server.put(f"{number}.iso", iso(bytes([number]) * 5000))}"')
        found.append(project.fetched())
        os.utime(found[-1].parent / ".facts.json", (1_700_000_000 + number, 1_700_000_000 + number))
    return found


def test_prune_keeps_those_that_were_used_last(project: Project) -> None:
    files = three(project)
    would = project("cache", "prune", "--keep", "1", "--dry-run", "--json").json
    assert [Path(entry["path"]) for entry in would] == [files[1], files[0]]
    assert all(file.exists() for file in files)
    assert project("cache", "prune", "--keep", "1", "--json").json == would
    assert [file.exists() for file in files] == [False, False, True]
    assert project("cache", "prune", "--keep", "1").stdout == "nothing to remove\n"
    assert len(project("cache", "list").stdout.splitlines()) == 2


def test_prune_leaves_what_is_in_use(project: Project) -> None:
    files = three(project)
    cache = Cache(project.folder / "state")
    with cache.in_use(files[0]):
        project("cache", "prune", "--keep", "0")
        assert [file.exists() for file in files] == [True, False, False]
    project("cache", "prune", "--keep", "0")
    assert project("cache", "list").stdout == "the cache is empty\n"


def test_a_file_that_was_changed_in_the_cache_is_not_used(project: Project) -> None:
    project.source(f'dvd = "{project.server.put("x.iso", DVD)}"')
    file = project.fetched()
    cache = Cache(project.folder / "state")
    with cache.in_use(file):
        pass
    flip(file)  # its size and times are what they were
    with pytest.raises(VerifyError, match=f"{file} was changed after it was downloaded") as told, cache.in_use(file):
        pass
    assert told.value.try_next == f"rm -r {file.parent}  and run the same command again"


def test_a_build_takes_no_download_that_rotted(project: Project, open_path: Path) -> None:
    project.source(f'dvd = "{project.server.put("x.iso", DVD)}", sha256 = "{sha256(DVD)}"')
    state = ("--state", str(open_path / "state"))  # where libvirt's QEMU may read
    file = Path(project(*state, "cache", "fetch", "--json").json["trial-base"])
    project(*state, "plan")  # by now its digest is remembered, as are its size and times
    flip(file)
    ended = project(*state, "build", "trial-base", expect=5)
    assert f"golden: error: {file} was changed after it was downloaded" in ended.stderr


def test_waiting_for_a_download_ends_with_a_signal(project: Project) -> None:
    project.source(f'dvd = "{project.server.put("x.iso", DVD)}"')
    project.server.hold.clear()
    with project.started("cache", "fetch") as first:
        assert project.server.arrived.wait(timeout=60)
        with project.started("--progress", "plain", "cache", "fetch") as second:
            assert second.stderr is not None
            assert any("waiting for pid" in line for line in iter(second.stderr.readline, ""))
            second.terminate()
            second.communicate(timeout=60)
        threading.Thread(target=project.server.hold.set).start()
        first.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 130)
