"""Tiny RPMs to test with, by the real rpmbuild."""

from __future__ import annotations

import tempfile
from pathlib import Path

from builder.run import query

SPEC = """\
Name: {name}
Epoch: {epoch}
Version: {version}
Release: 1
Summary: A package for tests
License: none
BuildArch: {arch}
AutoReqProv: no
%description
For tests.
%install
mkdir -p %{{buildroot}}/usr/share/{name}
printf '%s' '{content}' > %{{buildroot}}/usr/share/{name}/content
%files
/usr/share/{name}
"""


def make_rpm(
    folder: Path, name: str, *, version: str = "1", epoch: str = "", arch: str = "noarch", content: str = "x"
) -> Path:
    """Build NAME-VERSION-1.ARCH.rpm, which holds /usr/share/NAME/content, into `folder`. arch: "src" for the source."""
    folder.mkdir(parents=True, exist_ok=True)
    is_source = arch == "src"
    text = SPEC.format(name=name, epoch=epoch, version=version, arch="noarch" if is_source else arch, content=content)
    if not epoch:
        text = text.replace("Epoch: \n", "")
    if arch not in ("src", "noarch"):
        text = text.replace(f"BuildArch: {arch}\n", "")  # rpmbuild would look whether this host can run it
    with tempfile.TemporaryDirectory() as topdir:
        spec = Path(topdir) / "test.spec"
        spec.write_text(text)
        words = ["rpmbuild", "-bs" if is_source else "-bb", "--define", f"_topdir {topdir}"]
        if arch not in ("src", "noarch"):
            words += ["--target", arch]
        query([*words, spec], why="make a package for a test")
        (made,) = Path(topdir).glob("*RPMS/**/*.rpm")
        target = folder / made.name
        target.write_bytes(made.read_bytes())
    return target
