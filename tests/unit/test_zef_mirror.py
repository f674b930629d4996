"""Raku distributions as they are fetched -> a folder that zef takes for a mirror."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from builder.errors import ConfigError
from builder.tools.sparrowdo import mirror


def archive(path: Path, files: dict[str, str]) -> None:
    with tarfile.open(path, "w:gz") as stream:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            stream.addfile(member, io.BytesIO(text.encode()))


def test_archives_and_folders_become_one_index(tmp_path: Path) -> None:
    source = tmp_path / "zef"
    (source / "b").mkdir(parents=True)
    (source / "b" / "META6.json").write_text('{"name": "B", "source-url": "https://example.org/b.git"}')
    (source / "README").write_text("of the project's")
    archive(source / "a.tar.gz", {"A-1/META6.json": '{"name": "A", "version": "1"}', "A-1/lib/A.rakumod": "module A"})
    archive(source / "c.tgz", {"META6.json": '{"name": "C"}', "lib/C.rakumod": "module C"})
    assert mirror.write(source, tmp_path / "made", mirror="/mirror") == ["A", "B", "C"]
    assert json.loads((tmp_path / "made" / "golden.json").read_text()) == [
        {"name": "A", "version": "1", "path": "0"},
        {"name": "B", "path": "1"},
        {"name": "C", "path": "2"},
    ]
    assert (tmp_path / "made" / "0" / "lib" / "A.rakumod").read_text() == "module A"
    assert (tmp_path / "made" / "2" / "lib" / "C.rakumod").read_text() == "module C"
    config = json.loads((tmp_path / "made" / "config.json").read_text())
    assert config["Repository"][0][0]["options"]["mirrors"] == ["/mirror/"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"A/../../x": "y", "A/META6.json": "{}"}, "has a file that leads out of it: A/../../x"),
        ({"/etc/x": "y"}, "has a file that leads out of it"),
        ({"A/lib/A.rakumod": "module A"}, "is no Raku distribution: its META6.json cannot be read"),
    ],
)
def test_an_archive_that_is_none(tmp_path: Path, files: dict[str, str], message: str) -> None:
    (tmp_path / "zef").mkdir()
    archive(tmp_path / "zef" / "a.tar.gz", files)
    with pytest.raises(ConfigError, match=message):
        mirror.write(tmp_path / "zef", tmp_path / "made", mirror="/mirror")


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "zef").mkdir()
    (tmp_path / "zef" / "a.tar.gz").write_text("not one")
    with pytest.raises(ConfigError, match="is no archive that can be read"):
        mirror.write(tmp_path / "zef", tmp_path / "made", mirror="/mirror")
