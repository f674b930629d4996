"""A kickstart that the user brought: put together, checked for what golden needs, and otherwise left as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import install
from builder.config import load
from builder.errors import ConfigError
from builder.inputs import image_inputs
from builder.model import Project
from builder.tools import kickstart

KEY = "ssh-ed25519 AAAAC3Nza golden"

GOOD = f"""\
# mine
text
cdrom
rootpw --lock
sshkey --username=root "{KEY}"
bootloader --append="console=ttyS0,115200n8"
%include parts/disk.ks
poweroff
%packages
@core
%include parts/names
%end
%post
%include is a word of this script
%end
"""


def make_project(folder: Path, text: str) -> Project:
    (folder / "parts").mkdir()
    (folder / "parts/disk.ks").write_text("zerombr\n%include more.ks\n")
    (folder / "parts/more.ks").write_text("clearpart --all\npart / --size=1024 --grow\n")
    (folder / "parts/names").write_text("jq\n")
    (folder / "keys").mkdir()
    (folder / "keys/id_ed25519.pub").write_text(f"{KEY}\n")
    (folder / "my.ks").write_text(text)
    file = folder / "golden.toml"
    file.write_text(
        '[distribution.rocky9]\n[image.rocky9-base]\ndistribution = "rocky9"\nkickstart_file = "my.ks"\n',
        encoding="utf-8",
    )
    return load(file)


def rendered(project: Project) -> str:
    return install.kickstart(project.images["rocky9-base"], project.distribution_of("rocky9-base"), ssh_public_key=KEY)


def problems(project: Project) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        rendered(project)
    assert caught.value.exit_code == 2
    assert "nothing was started" in caught.value.what
    return [str(problem) for problem in caught.value.problems]


def test_it_is_taken_as_it_is_with_its_parts_in_their_places(tmp_path: Path) -> None:
    text = rendered(make_project(tmp_path, GOOD))
    expected = GOOD.replace(
        "%include parts/disk.ks\n", "zerombr\nclearpart --all\npart / --size=1024 --grow\n"
    ).replace("%include parts/names\n", "jq\n")
    assert text.startswith(expected)
    marker = text.removeprefix(expected)
    assert marker.startswith("\n# The marker that golden looks for")
    assert marker.endswith("%post --erroronfail\nprintf 'image=rocky9-base\\n' > /etc/golden-release\n%end\n")


def test_a_part_of_it_decides_the_build(tmp_path: Path) -> None:
    project = make_project(tmp_path, GOOD)
    before = image_inputs(project, project.images["rocky9-base"], state=tmp_path / "state").values
    (tmp_path / "parts/names").write_text("tree\n")
    after = image_inputs(project, project.images["rocky9-base"], state=tmp_path / "state").values
    assert {name for name in before if before[name] != after[name]} == {"kickstart"}


def test_everything_that_is_missing_is_listed_at_once(tmp_path: Path) -> None:
    text = "text\nrootpw secret\nuser --name=a --password=b --plaintext\npart / --size=1024\nreboot\n"
    assert problems(make_project(tmp_path, text)) == [
        "my.ks: it does not power off at the end, so golden would wait for it in vain: write 'poweroff'",
        f"my.ks: the project's key does not let root in: write 'sshkey --username=root \"{KEY}\"', "
        "or put it into authorized_keys in a %post",
        "my.ks: line 2 holds a password as plain text, which stays in the image: "
        "write --iscrypted with a hash, or --lock",
        "my.ks: line 3 holds a password as plain text, which stays in the image: "
        "write --iscrypted with a hash, or --lock",
        "my.ks: recommended: its boot loader names no serial console, so a guest that does not answer says nothing: "
        "write 'bootloader --append=\"console=ttyS0\"'",
    ]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("poweroff\n", "halt\n", "it does not power off"),
        ("poweroff\n", "", "it does not power off"),
        ("AAAAC3Nza", "AAAAother", "the project's key does not let root in"),
        ("--username=root", "--username=admin", "the project's key does not let root in"),
    ],
)
def test_one_thing_missing_is_named(tmp_path: Path, old: str, new: str, problem: str) -> None:
    (found,) = problems(make_project(tmp_path, GOOD.replace(old, new)))
    assert found.startswith(f"my.ks: {problem}")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("poweroff\n", "shutdown\n"),
        (f'sshkey --username=root "{KEY}"\n', "%post\necho key > /root/.ssh/authorized_keys\n%end\n"),
        ("rootpw --lock", "rootpw --iscrypted $6$x$y"),
        (' golden"', ' another comment"'),
    ],
)
def test_other_ways_to_say_it_are_taken(tmp_path: Path, old: str, new: str) -> None:
    assert rendered(make_project(tmp_path, GOOD.replace(old, new))).startswith("# mine\n")


def test_a_missing_console_is_a_recommendation_alone(tmp_path: Path) -> None:
    project = make_project(tmp_path, GOOD.replace('bootloader --append="console=ttyS0,115200n8"\n', "bootloader\n"))
    (advice,) = install.advice(project.distribution_of("rocky9-base"), rendered(project), image="rocky9-base")
    assert advice.startswith("recommended: its boot loader names no serial console")


def test_what_does_not_parse_is_refused_with_its_line(tmp_path: Path) -> None:
    assert problems(make_project(tmp_path, GOOD.replace("cdrom", "cdrm"))) == [
        "line 3, kickstart: Unknown command: cdrm"
    ]


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    project = make_project(tmp_path, GOOD.replace("parts/names", "parts/nams"))
    assert problems(project) == [f"my.ks: it includes {tmp_path}/parts/nams, which is not there"]


def test_what_a_pre_script_will_write_stays_an_include(tmp_path: Path) -> None:
    text = GOOD + "%include /tmp/disk.ks\n%pre\necho zerombr > /tmp/disk.ks\n%end\n"
    assert "\n%include /tmp/disk.ks\n" in rendered(make_project(tmp_path, text))


def test_a_kickstart_that_includes_itself_is_refused(tmp_path: Path) -> None:
    project = make_project(tmp_path, GOOD)
    (tmp_path / "parts/more.ks").write_text("%include ../my.ks\n")
    assert problems(project) == [f"my.ks: {tmp_path}/my.ks includes itself"]


def test_ksappend_is_put_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.ks").write_text("text\n%ksappend b.ks\n")
    (tmp_path / "b.ks").write_text("poweroff\n")
    assert kickstart.flatten(tmp_path / "a.ks") == "text\npoweroff\n"


def test_a_file_that_is_not_there_is_a_problem_of_golden_toml(tmp_path: Path) -> None:
    project = make_project(tmp_path, GOOD)
    (tmp_path / "my.ks").unlink()
    with pytest.raises(ConfigError) as caught:
        load(project.file)
    assert [str(problem) for problem in caught.value.problems] == [
        f"line 4, image.rocky9-base.kickstart_file: there is no file {tmp_path}/my.ks"
    ]
