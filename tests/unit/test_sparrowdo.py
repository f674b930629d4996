"""The step `sparrowdo`: what golden.toml may say, what counts in a key, what a run is given, what its words mean."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from builder import inputs, layer, starter
from builder.catalogue import bootstrapped
from builder.cli import golden, main
from builder.config import load
from builder.config_steps import parse_step
from builder.errors import ConfigError
from builder.inputs import Inputs
from builder.layer import Bench
from builder.model import Build, Project
from builder.package.spec import render_spec
from builder.pipeline import Pipeline
from builder.plan import Known, Planned, plan
from builder.preflight.kvm import Accelerator
from builder.progress import Reporter
from builder.steps import Sparrowdo
from builder.store import Store, sha256
from builder.tools import ssh
from builder.tools.sparrowdo import command, failures
from builder.tools.sparrowdo.command import Job
from builder.workshop import Host
from tests.builds import make_build

TOML = """\
[distribution.rocky9]
source = { dvd = "sandbox.iso" }
[image.rocky9-base]
distribution = "rocky9"
[image.rocky9-tools]
parent = "rocky9-base"
steps = [{ run = "true" }]
[image.rocky9-bootstrapped]
parent = "rocky9-base"
steps = [{ sparrowdo = { sparrowfile = "sparrow/ci.raku", secrets = "secrets.env", expires = "30 d" } }]
[image.rocky9-app]
parent = "rocky9-bootstrapped"
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "golden.toml").write_text(TOML)
    (tmp_path / "sparrow" / "tasks" / "hello").mkdir(parents=True)
    (tmp_path / "sparrow" / "tasks" / "hello" / "task.bash").write_text("echo hello\n")
    (tmp_path / "sparrow" / "ci.raku").write_text('say "hi";\n')
    (tmp_path / "secrets.env").write_text("TOKEN=t0p\n")
    return load(tmp_path / "golden.toml")


# --- golden.toml


@pytest.mark.parametrize(
    ("raw", "step"),
    [
        ({"bootstrap": True}, Sparrowdo()),
        ({"sparrowfile": "a.raku", "bootstrap": False}, Sparrowdo(bootstrap=False, sparrowfiles=("a.raku",))),
        (
            {"tags": {"os": "el9", "quick": True}, "user": "tester", "sudo": False, "retries": 0},
            Sparrowdo(tags={"os": "el9", "quick": ""}, user="tester", is_sudo=False, retries=0),
        ),
        ({"repository": "public", "plugins": "bash"}, Sparrowdo(repository="public", plugins=("bash",))),
        ({"repository": "http://10.0.2.2:8000/repo"}, Sparrowdo(repository="http://10.0.2.2:8000/repo")),
        ({"repository": "sparrow/repo", "zef": "zef"}, Sparrowdo(repository="sparrow/repo", zef="zef")),
        (
            {"versions": {"raku": "2022.12"}, "expires": "30 d", "resolves": ["example.org"]},
            Sparrowdo(versions={"raku": "2022.12"}, expires_days=30, resolves=("example.org",)),
        ),
    ],
)
def test_a_good_step(raw: dict[str, Any], step: Sparrowdo) -> None:
    assert parse_step({"sparrowdo": raw}).step == step


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (True, "'sparrowdo' takes a table, such as { bootstrap = true, sparrowfile = \"sparrow/ci.raku\" }"),
        ({"sparowfile": "a"}, "'sparrowdo' has no 'sparowfile', did you mean 'sparrowfile'?"),
        ({"bootstrap": 1}, "'bootstrap' is true or false"),
        ({"bootstrap": False}, "'sparrowdo' says nothing to do; it has bootstrap = false, and no sparrowfile"),
        ({"user": "a b"}, "'a b' in 'user' cannot be handed to Sparrowdo, which quotes nothing; use letters, digits"),
        ({"user": "-oProxyCommand"}, "'-oProxyCommand' in 'user' cannot be handed to Sparrowdo"),
        ({"tags": {"os": "$(id)"}}, "'$(id)' in 'tags' cannot be handed to Sparrowdo"),
        ({"tags": {"a,b": True}}, "'a,b' in 'tags' cannot be handed to Sparrowdo"),
        ({"plugins": ["bash; id"]}, "'bash; id' in 'plugins' cannot be handed to Sparrowdo"),
        ({"repository": "ftp://x"}, "'ftp://x' is no repository; write \"public\", an http(s) URL, or a folder"),
        ({"repository": "http://x/;id"}, "'http://x/;id' in 'repository' cannot be handed to Sparrowdo"),
        ({"sparrowfile": "../x.raku"}, "'../x.raku' is not below the folder of golden.toml"),
        ({"secrets": "/etc/passwd"}, "'/etc/passwd' is not below the folder of golden.toml"),
        ({"expires": "5 min"}, "'expires' is whole days, such as \"30 d\", not '5 min'"),
        ({"versions": {"rakudo": "1"}}, "'versions' has no 'rakudo', did you mean 'raku'?"),
        ({"retries": 9}, "'retries' is a whole number from 0 to 3"),
    ],
)
def test_a_bad_step(raw: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_step({"sparrowdo": raw})
    assert str(caught.value).startswith(message)


def test_almalinux_is_refused_early_with_the_way_around(tmp_path: Path) -> None:
    text = TOML.replace("rocky9", "almalinux9")
    (tmp_path / "golden.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "golden.toml")
    assert caught.value.exit_code == 2
    (problem,) = caught.value.problems
    assert problem.where == "image.almalinux9-bootstrapped.steps.0"
    assert problem.what == (
        "Sparrowdo's own bootstrap does not support AlmaLinux 9 and would end with 'Your OS is not supported'; install "
        "raku-sparrow6 and raku-sparky-job-api of Sparrow's COPR by the offline steps repos and install, and say "
        "bootstrap = false (docs/sparrowdo.md)"
    )
    (tmp_path / "golden.toml").write_text(text.replace("{ sparrowfile", "{ bootstrap = false, sparrowfile"))
    assert load(tmp_path / "golden.toml").images["almalinux9-bootstrapped"]


@pytest.mark.parametrize("name", ["rocky8", "rocky9", "rocky10", "fedora43", "fedora44"])
def test_the_catalogue_has_a_bootstrapped_image(tmp_path: Path, name: str) -> None:
    """`golden init` writes it, and it is right."""
    starter.start(tmp_path / "new", distribution=name)
    image = load(tmp_path / "new" / "golden.toml").images[f"{name}-bootstrapped"]
    install, step = image.steps
    prepared = bootstrapped(name)
    assert prepared is not None
    assert getattr(install, "packages", ()) == tuple(prepared["packages"])
    assert isinstance(step, Sparrowdo)
    assert (step.bootstrap, step.expires_days, list(step.resolves)) == (True, 30, prepared["resolves"])


def test_init_writes_none_for_what_sparrowdo_does_not_support(tmp_path: Path) -> None:
    starter.start(tmp_path / "new", distribution="almalinux9")
    assert "almalinux9-bootstrapped" not in load(tmp_path / "new" / "golden.toml").images


# --- content keys


def of(project: Project, name: str = "rocky9-bootstrapped") -> dict[str, str]:
    return inputs.image_inputs(project, project.images[name], state=project.folder / "state").values


def test_what_counts(project: Project) -> None:
    assert [name for name in of(project) if name != "golden's recipe format"] == [
        "step 1: sparrowdo",
        "step 1: sparrowdo, age",
        "file sparrow/ci.raku",
        "file sparrow/tasks",
        "file sparrow/tasks/hello",
        "file sparrow/tasks/hello/task.bash",
    ]


def changed(project: Project, before: dict[str, str]) -> list[str]:
    now = of(project)
    return [name for name in {**before, **now} if before.get(name) != now.get(name)]


def test_tasks_count_and_secrets_do_not(project: Project) -> None:
    before = of(project)
    (project.folder / "secrets.env").write_text("TOKEN=other\n")
    assert changed(project, before) == []
    (project.folder / "sparrow" / "tasks" / "hello" / "task.bash").write_text("echo other\n")
    (project.folder / "sparrow" / "config.raku").write_text("{}\n")
    (project.folder / "sparrow" / "README").write_text("is not taken along\n")
    assert changed(project, before) == ["file sparrow/tasks/hello/task.bash", "file sparrow/config.raku"]


def test_a_bootstrap_expires(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    class Day(date):
        now = date(2026, 11, 21)

        @classmethod
        def today(cls) -> date:  # type: ignore[override]
            return cls.now

    monkeypatch.setattr(inputs, "date", Day)
    before = of(project)
    ages = set()
    for days in range(31):
        Day.now = date.fromordinal(date(2026, 11, 21).toordinal() + days)
        ages.add(of(project)["step 1: sparrowdo, age"])
    assert len(ages) == 2
    assert changed(project, before) == ["step 1: sparrowdo, age"]
    assert re.fullmatch(r"the 30 days from \d{4}-\d\d-\d\d", before["step 1: sparrowdo, age"])


def test_a_changed_sparrowfile_rebuilds_only_its_layer_and_what_stands_on_it(project: Project) -> None:
    names = [*project.images]

    def planned(builds: dict[str, Build]) -> dict[str, str]:
        found = plan(
            project,
            names,
            inputs={
                name: Inputs(values={"recipe": name} if name == "rocky9-base" else of(project, name)) for name in names
            },
            known=Known(builds=list(builds.values()), fault=lambda build: ""),
            now=datetime(2026, 11, 21, tzinfo=UTC),
        )
        for step in found:
            parent = builds[step.parent].id if step.parent else None
            builds.setdefault(
                step.image,
                make_build(step.image, parent=parent).model_copy(update={"key": step.key, "inputs": step.inputs}),
            )
        return {step.image: step.reason for step in found if step.action != "reuse"}

    builds: dict[str, Build] = {}
    assert [*planned(builds)] == names
    assert planned(builds) == {}
    (project.folder / "sparrow" / "ci.raku").write_text('say "ho";\n')
    assert planned(builds) == {
        "rocky9-bootstrapped": "file sparrow/ci.raku changed",
        "rocky9-app": "rocky9-bootstrapped will be built",
    }


def test_the_age_is_what_time_brings(project: Project) -> None:
    """So `refresh` of the image may let it wait, and a bootstrap that brings nothing new is not kept."""
    found = inputs.image_inputs(project, project.images["rocky9-bootstrapped"], state=project.folder / "state")
    assert found.timely == {"step 1: sparrowdo, age"}


@pytest.mark.parametrize(("version", "stands"), [("0.0.94", True), ("0.0.95", False)])
def test_another_version_of_what_was_bootstrapped_is_something_new(
    project: Project, tmp_path: Path, version: str, stands: bool
) -> None:
    """The packages may be the same: zef's are none of rpm's."""
    packages = tmp_path / "packages"
    packages.write_text("bash-0:5-1.x86_64\n")
    standing = make_build("rocky9-bootstrapped", packages_sha256=sha256(packages))
    standing = standing.model_copy(update={"software": {"sparrow6": "0.0.94"}})
    planned = Planned(
        image="rocky9-bootstrapped",
        parent=None,
        action="refresh",
        reason="its time came",
        why="its time came",
        key="k",
        inputs={},
        build=None,
        standing=standing,
    )
    host = Host(uri="test:///default", accelerator=Accelerator(kind="tcg", reason=""))
    pipeline = Pipeline(project, Store(tmp_path / "state", "demo"), host=host, reporter=Reporter("quiet"))
    found = pipeline._same_as_before(planned, packages, {"sparrow6": version})
    assert found == (standing if stands else None)


# --- what a run is given

TARGET = ssh.Target(port=2222, key=Path("/keys/a key"), user="tester")
PREFIX = [
    *("env", "-u", "SPARROWDO_ENV_FILE", "-u", "SP6_CARTON_OFF", "-C", "/place/run", "sparrowdo"),
    *("--host=127.0.0.1", "--ssh_port=2222", "--ssh_user=tester", "--ssh_private_key=/place/key"),
]


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (Job(title="the bootstrap"), ["--bootstrap"]),
        (Job(title="x", text=""), ["--no_sudo", "--no_index_update", "--sparrowfile=/place/sparrowfile.raku"]),
        (
            Job(title="x", text="", is_sudo=True, repository="public", tags={"os": "el9", "quick": ""}),
            ["--tags=os=el9,quick", "--sparrowfile=/place/sparrowfile.raku"],
        ),
        (
            Job(title="x", text="", repository="/home/a b/repo", secrets=Path("/home/a b/secrets")),
            [
                *("--no_sudo", "--sync=/place/repository", "--secretsfile=/place/secrets.env"),
                "--sparrowfile=/place/sparrowfile.raku",
            ],
        ),
        (
            Job(title="x", text="", repository="https://example.org/repo"),
            ["--no_sudo", "--repo=https://example.org/repo", "--sparrowfile=/place/sparrowfile.raku"],
        ),
    ],
)
def test_the_arguments(job: Job, words: list[str]) -> None:
    """Always --option=value, and no path of the user's among them."""
    assert [str(word) for word in command.argv(job, TARGET, place=Path("/place"))] == [*PREFIX, *words]


def test_what_goes_along(project: Project, tmp_path: Path) -> None:
    (project.folder / "sparrow" / "tasks" / "__pycache__").mkdir()
    job = Job(title="x", text="", project=project.folder, folder="sparrow")
    job = job.model_copy(update={"secrets": project.folder / "secrets.env"})
    command.write(job, TARGET, place=tmp_path / "place", nonce="abc")
    place = tmp_path / "place"
    found = sorted(str(path.relative_to(place)) for path in place.rglob("*"))
    assert found == [
        *("key", "run", "run/tasks", "run/tasks/hello", "run/tasks/hello/task.bash", "secrets.env"),
        "sparrowfile.raku",
    ]
    assert (place / "secrets.env").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ('bash "ls"', 'END { say q[golden: sparrowfile abc ended]; }; bash "ls"'),
        ("=begin pod", "END { say q[golden: sparrowfile abc ended]; };\n=begin pod"),
        (
            "#!raku\n\nuse v6.d; say 1;\nsay 2",
            "#!raku\n\nuse v6.d;END { say q[golden: sparrowfile abc ended]; };  say 1;\nsay 2",
        ),
    ],
)
def test_a_sparrowfile_says_that_it_was_this_one(tmp_path: Path, text: str, given: str) -> None:
    """And is otherwise what it was: its first statement, its last one without a semicolon, the numbers of its lines."""
    command.write(Job(title="x", text=text), TARGET, place=tmp_path / "place", nonce="abc")
    assert (tmp_path / "place" / "sparrowfile.raku").read_text() == given


def test_the_commands_of_a_dry_run(project: Project, tmp_path: Path) -> None:
    bench = Bench(
        image=project.images["rocky9-bootstrapped"],
        distribution=project.distributions["rocky9"],
        version="20261121.1",
        work=tmp_path / "work",
        store_id="0123abcd",
        project=project.folder,
    )
    bench.work.mkdir()
    layer.write_inputs(
        bench, ssh_public_key="ssh-ed25519 AAAA", repositories=(), xml="<domain/>", port=2222, key=Path("/keys/id")
    )
    found = layer.commands(
        bench,
        parents=[tmp_path / "rocky9-base.qcow2"],
        target=tmp_path / "new.qcow2",
        repositories=(),
        uri="qemu:///system",
        is_kvm=False,
        time_factor=5,
        key=Path("/keys/id"),
        port=2222,
    )
    lines = [it.line for it in found if " sparrowdo --host=" in it.line]
    assert [line.partition("--ssh_private_key=")[2].partition(" ")[2] for line in lines] == [
        "--bootstrap",
        f"--no_index_update --secretsfile={bench.work}/1-sparrowdo/2/secrets.env "
        f"--sparrowfile={bench.work}/1-sparrowdo/2/sparrowfile.raku",
        f"--no_sudo --no_index_update --sparrowfile={bench.work}/1-sparrowdo/3/sparrowfile.raku",
    ]
    for number in (1, 2, 3):
        assert (bench.work / "1-sparrowdo" / str(number) / "run").is_dir()
    # What is written here may be kept.
    assert (bench.work / "1-sparrowdo" / "2" / "secrets.env").readlink() == project.folder / "secrets.env"


# --- what its words mean


@given(st.text(), st.integers(1, 255), st.sampled_from(["bootstrap", "tasks"]))
def test_whatever_is_said_has_an_explanation(output: str, status: int, calls: failures.Phase) -> None:
    found = failures.explain(failures.plain(output.encode()), status=status, calls=calls)
    assert found.cause and found.try_next


def test_the_last_command_that_failed_names_the_phase() -> None:
    said = (
        b"\x1b[31mThe spawned command 'scp -r -q x' exited unsuccessfully (exit code: 1, signal: 0)\x1b[0m\r\n"
        b"The spawned command 'ssh -tt h bash --login .sparrowdo/env/default/.sparrowdo/sparrowrun.sh' exited "
        b"unsuccessfully (exit code: 42, signal: 0)\r\n  in block\r\n"
    )
    found = failures.explain(failures.plain(said), status=1, calls="tasks")
    assert (found.phase, found.status, found.is_result) == ("tasks", 42, True)
    found = failures.explain(failures.plain(said.split(b"\r\n")[0]), status=1, calls="tasks")
    assert (found.phase, found.status, found.is_result) == ("copy", 1, False)


def test_no_failure_that_is_final_is_tried_again() -> None:
    """Also where words of a passing one stand beside it."""
    for words in ("Your OS (x) is not supported", "[sudo] password for x:", "===SORRY!===", "x does not exit"):
        said = f"{words}\nConnection reset by peer\nNo candidates found\n"
        said += "The spawned command 'x bootstrap.sh' exited unsuccessfully (exit code: 1, signal: 0)"
        assert not failures.explain(said, status=1, calls="bootstrap").is_passing, words
    assert not failures.explain("Usage: Connection reset", status=2, calls="bootstrap").is_passing


# --- facts and packages


def test_versions_become_capabilities_of_the_package() -> None:
    build = make_build("rocky9-bootstrapped").model_copy(update={"software": {"sparrow6": "0.0.94", "raku": "2022.12"}})
    provides = re.findall(r"^Provides: +(golden\(.*)", render_spec(build, prefix="golden"), re.M)
    assert provides == ["golden(raku) = 2022.12", "golden(sparrow6) = 0.0.94"]


def test_a_part_of_a_step_is_not_counted_twice() -> None:
    reporter = Reporter("quiet")
    with reporter.step("all"), reporter.part("[1/4] some"):
        pass
    assert [timing.step for timing in reporter.times] == ["all"]


# --- the command line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tag", "os=$(id)"], "'$(id)' in 'tags' cannot be handed to Sparrowdo"),
        (["--user", "a b"], "'a b' in 'user' cannot be handed to Sparrowdo"),
        (["--repository", "nowhere"], "there is no repository of Sparrow6's in nowhere: it is no folder"),
    ],
)
def test_bad_words_start_nothing(project: Project, words: list[str], message: str) -> None:
    file = str(project.folder / "sparrow" / "ci.raku")
    with pytest.raises(ConfigError) as caught:
        CliRunner().invoke(
            golden,
            ["--file", str(project.file), "sparrowdo", "rocky9-bootstrapped", "--sparrowfile", file, *words],
            catch_exceptions=False,
        )
    assert caught.value.what.startswith(message)


def test_a_dry_run_prints_each_clone_s_commands(project: Project) -> None:
    file = str(project.folder / "sparrow" / "ci.raku")
    words = ["sparrowdo", "rocky9-bootstrapped", "--sparrowfile", file, "--sparrowfile", file, "--dry-run"]
    lines = CliRunner().invoke(golden, ["--file", str(project.file), *words]).output.splitlines()
    assert [line.split()[0] for line in lines] == ["golden", "env", "golden"] * 2
    assert lines[0] == "golden clone create sparrowdo-1 --image rocky9-bootstrapped"
    assert lines[5] == "golden clone destroy sparrowdo-2"


def test_a_dry_run_of_validate_prints_one_clone_s_commands(project: Project) -> None:
    lines = CliRunner().invoke(golden, ["--file", str(project.file), "validate", "--dry-run"]).output.splitlines()
    assert [line.split()[0] for line in lines] == ["golden", "env", "golden"]
    assert lines[0] == "golden clone create sparrowdo-1 --image rocky9-bootstrapped"
    assert "--no_sudo --no_index_update" in lines[1]


def test_validate_needs_an_image_where_the_project_does_not_tell(tmp_path: Path) -> None:
    (tmp_path / "golden.toml").write_text(TOML.partition("[image.rocky9-bootstrapped]")[0])
    with pytest.raises(ConfigError) as caught:
        CliRunner().invoke(golden, ["--file", str(tmp_path / "golden.toml"), "validate"], catch_exceptions=False)
    assert caught.value.what == "the project has no image that Sparrowdo bootstraps"
    assert caught.value.try_next == "golden validate IMAGE"


def test_golden_ends_with_the_status_that_a_command_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def fails() -> None:
        raise click.exceptions.Exit(42)

    monkeypatch.setitem(golden.commands, "fails", fails)
    monkeypatch.setattr("sys.argv", ["golden", "fails"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 42
