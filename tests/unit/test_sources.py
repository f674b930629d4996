"""`source = { … }` in golden.toml, checksum files, and what is done about them in plans."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import bases
from builder.checksums import sha256_of
from builder.config import load
from builder.errors import ConfigError
from builder.media import Repository, Source
from builder.progress import Reporter

A, B = "a" * 64, "B" * 64


def load_source(folder: Path, text: str) -> Source | None:
    file = folder / "golden.toml"
    file.write_text(f'[distribution.x]\ninherits = "el9"\nsource = {text}\n', encoding="utf-8")
    return load(file).distributions["x"].source


def test_a_dvd_beside_golden_toml(tmp_path: Path) -> None:
    source = load_source(tmp_path, '{ dvd = "x.iso" }')
    assert source == Source(dvd=str(tmp_path / "x.iso"))
    assert (source.path, source.title) == (tmp_path / "x.iso", "DVD x.iso")


def test_an_image_with_all_that_proves_it(tmp_path: Path) -> None:
    source = load_source(
        tmp_path,
        f'{{ qcow2 = "https://m.example/a%20b/x.qcow2?y=1", sha256 = "{B}", checksums = "https://m.example/CHECKSUM", '
        'signature = "CHECKSUM.asc", key = "keys/x.asc", cloud_init = "keep" }',
    )
    assert source == Source(
        qcow2="https://m.example/a%20b/x.qcow2?y=1",
        sha256=B.lower(),
        checksums="https://m.example/CHECKSUM",
        signature=str(tmp_path / "CHECKSUM.asc"),
        key=tmp_path / "keys/x.asc",
        cloud_init="keep",
    )
    assert (source.path, source.title) == (None, "image x.qcow2")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{ image = 'rocky9-base' }", "/usr/share/golden/images/rocky9-base.qcow2"),
        ("{ image = 'rocky9-base@20261121.1', images = '/i' }", "/i/rocky9-base-20261121.1.qcow2"),
        ("{ image = '/i/x.qcow2' }", "/i/x.qcow2"),
    ],
)
def test_an_image_of_golden_s_own(tmp_path: Path, text: str, expected: str) -> None:
    assert load_source(tmp_path, text) == Source(image=expected)


def test_an_image_of_a_channel(tmp_path: Path) -> None:
    source = load_source(
        tmp_path, "{ channel = 'https://m/golden/{arch}/', image = 'rocky9-base@20261121.1', key = 'keys/x.asc' }"
    )
    assert source == Source(
        channel="https://m/golden/x86_64", image="rocky9-base@20261121.1", key=tmp_path / "keys/x.asc"
    )
    assert (source.kind, source.path, source.is_import) == ("image", None, True)
    assert source.location == "https://m/golden/x86_64/rocky9-base@20261121.1"
    assert source.title == "image rocky9-base@20261121.1"
    assert source.at(tmp_path / "x.qcow2").location == str(tmp_path / "x.qcow2")


def test_how_a_person_brings_an_image_of_a_channel(tmp_path: Path) -> None:
    load_source(tmp_path, "{ channel = 'https://m/golden/stable', image = 'rocky9-base' }")
    with (tmp_path / "golden.toml").open("a") as file:
        file.write('[image.x-base]\ndistribution = "x"\n[image.x-top]\nparent = "x-base"\n')
    project = load(tmp_path / "golden.toml")
    line = bases.download_command(project, "x-base", state=tmp_path / "state")
    assert line == f"golden --file {tmp_path}/golden.toml --state {tmp_path}/state cache fetch x-base"
    assert bases.download_command(project, "x-top", state=tmp_path / "state") is None


def test_the_key_of_the_distribution(tmp_path: Path) -> None:
    file = tmp_path / "golden.toml"
    source = "source = { qcow2 = 'x.qcow2', checksums = 'SUMS', key = 'distribution' }\n"
    file.write_text(f'[distribution.rocky9]\n{source}[distribution.mine]\ninherits = "rocky9"\ngpg_key = "keys/mine"\n')
    known = load(file).distributions
    assert known["rocky9"].gpg_key == Path("/usr/share/distribution-gpg-keys/rocky/RPM-GPG-KEY-Rocky-9")
    assert [it.source.key for it in (known["rocky9"], known["mine"]) if it.source] == [
        known["rocky9"].gpg_key,
        tmp_path / "keys/mine",
    ]
    with pytest.raises(ConfigError) as caught:
        load_source(tmp_path, "{ qcow2 = 'x.qcow2', checksums = 'SUMS', key = 'distribution' }")
    assert "golden knows no key of 'x'; name the file with the makers' public key: gpg_key = " in str(
        caught.value.problems[0]
    )


def test_trees(tmp_path: Path) -> None:
    of_the_network = load_source(tmp_path, "{ url = 'https://m/{arch}/', repositories = { A = 'https://m/{arch}/A' } }")
    repository = Repository(name="A", location="https://m/x86_64/A")
    assert of_the_network == Source(url="https://m/x86_64/", repositories=(repository,))
    assert (of_the_network.kind, of_the_network.path) == ("url", None)
    assert of_the_network.title == "network tree https://m/x86_64/"
    here = load_source(tmp_path, "{ tree = 'a/{arch}' }")
    assert here == Source(tree=tmp_path / "a/x86_64")
    assert (here.kind, here.path, here.title) == ("tree", tmp_path / "a/x86_64", "tree x86_64")


def test_the_architecture_is_filled_in_everywhere(tmp_path: Path) -> None:
    source = load_source(tmp_path, "{ dvd = 'https://m/{arch}/x-{arch}.iso', checksums = '{arch}/SUMS' }")
    assert source == Source(dvd="https://m/x86_64/x-x86_64.iso", checksums=str(tmp_path / "x86_64/SUMS"))


@pytest.mark.parametrize("text", ["{ url = 'https://m/' }", "{ tree = 'a' }"])
def test_of_a_tree_nothing_is_downloaded(tmp_path: Path, text: str) -> None:
    (tmp_path / "golden.toml").write_text("")
    load_source(tmp_path, text)
    with (tmp_path / "golden.toml").open("a") as file:
        file.write('[image.x-base]\ndistribution = "x"\n')
    project = load(tmp_path / "golden.toml")
    source = bases.source_of(project.distributions["x"])
    bases.refresh(project, ["x-base"], state=tmp_path, reporter=Reporter("plain"))
    assert bases.fetch(project, "x-base", state=tmp_path, reporter=Reporter("plain")) == source.path
    assert bases.localized(project.distributions["x"], state=tmp_path) == project.distributions["x"]
    assert bases.download_command(project, "x-base", state=tmp_path) is None
    assert not bases.is_import(project.distributions["x"])
    assert [path.name for path in tmp_path.iterdir()] == ["golden.toml"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{ dvd = 'a.iso', qcow2 = 'a.qcow2' }", "a source is one thing: 'dvd' or 'qcow2'"),
        ("{ sha256 = 'a' }", "a source is one thing: 'dvd' or 'qcow2'"),
        ("{ dvd = 'a.iso', images = '/x' }", "'images' is the folder of an 'image' of golden's own"),
        ("{ dvd = 'a.iso', channel = 'https://m/c' }", "'channel' is where an 'image' of golden's own comes from"),
        ("{ image = 'a', images = '/i', channel = 'https://m/c' }", "'images' is for installed ones"),
        ("{ image = 'a', channel = '/srv/c' }", "'/srv/c' is not the address of a channel; write https://"),
        ("{ image = '/i/a.qcow2', channel = 'https://m/c' }", "the 'image' of a channel is NAME or NAME@VERSION, not"),
        ("{ image = 'a@new', channel = 'https://m/c' }", "is NAME or NAME@VERSION, not 'a@new'"),
        ("{ image = 'a', key = 'c' }", "'key' is for the signature of a checksum file; 'checksums' is missing"),
        ("{ image = 'a', checksums = 'c' }", "an 'image' of golden's own has its digest in the facts beside it"),
        ("{ dvd = 'a.iso', sha256 = '12' }", "'sha256' is 64 hexadecimal digits, not '12'"),
        ("{ dvd = 'a.iso', cloud_init = 'off' }", "'cloud_init' belongs to an imported image"),
        ("{ dvd = 'a.iso', key = 'k.asc' }", "'key' is for the signature of a checksum file; 'checksums' is missing"),
        (
            "{ dvd = 'a.iso', checksums = 'c', signature = 's' }",
            "a 'signature' proves nothing without the 'key' that it has to be made with",
        ),
        ("{ tree = 'a', cloud_init = 'off' }", "'cloud_init' belongs to an imported image"),
        ("{ url = 'https://m/', sha256 = 'a' }", "'sha256' and 'checksums' prove one file; 'url' and 'tree' are many"),
        ("{ tree = 'a', checksums = 'c' }", "'sha256' and 'checksums' prove one file; 'url' and 'tree' are many"),
        ("{ tree = 'a', qcow2 = 'b' }", "this one has tree and qcow2"),
        (
            "{ qcow2 = 'a', repositories = { x = 'https://m/' } }",
            "'repositories' are the installer's; an imported image is installed already",
        ),
        ("{ url = 'https://m/', repositories = { 'a b' = 'https://m/' } }", "'a b' is not a repository's name"),
        ("{ dvd = 'ftp://m/a.iso' }", "golden downloads by http and https, not by 'ftp': ftp://m/a.iso"),
        ("{ dvd = 'https://m/' }", "'https://m/' names no file"),
        ("{ dvd = 'https://m/a/%2e%2e' }", "'https://m/a/%2e%2e' names no file"),
        ("{ dvd = 'https://m/..%2f..%2fx' , checksum = 'c' }", "unknown key, did you mean 'checksums'?"),
    ],
)
def test_a_source_that_makes_no_sense(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_source(tmp_path, text)
    (problem,) = caught.value.problems
    assert (problem.line, expected in problem.what) == (3, True), problem


def test_a_hostile_address_names_no_other_folder(tmp_path: Path) -> None:
    source = load_source(tmp_path, '{ dvd = "https://m/..%2f..%2fx.iso" }')
    assert source is not None
    assert source.title == "DVD x.iso"


@pytest.mark.parametrize(
    "text",
    [
        f"{A}  x.iso\n{B}  y.iso\n",
        f"{A} *x.iso\n",
        f"{A.upper()}  ./images/x.iso\r\n",
        f"# x.iso: 12 bytes\nSHA256 (x.iso) = {A}\nSHA512 (x.iso) = {A}{A}\n",
        f"SHA256(x.iso)= {A}\n",
        f"{'0' * 32}  x.iso\n{A}  x.iso\n",
        f"{A}\n",
    ],
    ids=["gnu", "gnu binary", "folder", "bsd", "openssl", "md5 too", "bare"],
)
def test_checksum_files_of_all_forms(text: str) -> None:
    assert sha256_of("x.iso", text) == A


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<html>404</html>", "it gives no SHA-256 for 'x.iso'"),
        (f"{A}  y.iso\n", "it gives no SHA-256 for 'x.iso'; it has y.iso"),
        (f"{A}  a/x.iso\n{B}  b/x.iso\n", "it gives 2 different SHA-256 for 'x.iso'"),
        (f"{A}  not-x.iso\n", "it gives no SHA-256 for 'x.iso'; it has not-x.iso"),
    ],
)
def test_checksum_files_of_no_use(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        sha256_of("x.iso", text)
