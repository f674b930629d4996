"""The documentation speaks of what there is."""

from __future__ import annotations

import re
import runpy
import shlex
import tomllib
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from builder import config, config_distributions, config_images, config_publication, private
from builder.cli import golden
from builder.harness import declaration

TOP = Path(__file__).parents[2]
PAGES = [TOP / "README.md", *sorted((TOP / "docs").glob("*.md"))]


def test_the_reference_is_what_the_code_says() -> None:
    made = runpy.run_path(str(TOP / "docs/reference/make.py"))["pages"]()
    assert set(made) == {it.name for it in (TOP / "docs/reference").iterdir() if it.suffix in (".md", ".json")}
    for name, text in made.items():
        found = (TOP / "docs/reference" / name).read_text(encoding="utf-8")
        assert found == text, f"docs/reference/{name} is out of date; run: make reference"


@pytest.mark.parametrize(
    "model",
    [
        config._Project,
        config_distributions.RawDistribution,
        config_images.RawImage,
        config_publication.RawSigning,
        config_publication.RawPublish,
        config_publication.RawRetention,
    ],
    ids=lambda m: m.__name__,
)
def test_every_key_of_golden_toml_is_described(model: type[BaseModel]) -> None:
    text = (TOP / "docs/golden-toml.md").read_text(encoding="utf-8")
    for key in model.model_fields:
        assert re.search(rf"`{key}`", text), f"{key} is missing in docs/golden-toml.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def fences(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block of code."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def typed(page: Path) -> list[str]:
    """Every command of golden's that a page shows, in blocks and in running text, as it would be typed."""
    text = page.read_text(encoding="utf-8")
    blocks = [block.replace("\\\n", " ") for language, block in fences(page) if language in ("", "sh", "console")]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
    lines = [line for block in (*blocks, *inline) for line in re.split(r"\n|&&|\$\(|[|;)](?=\s|$)", block)]
    return [found[1] for line in lines if (found := re.match(r"[\s#$]*((?:[A-Z_]+=\S+ )*golden(?: .*)?)$", line))]


@pytest.mark.parametrize("page", [*PAGES, TOP / "CHANGELOG.md"], ids=lambda page: page.name)
def test_the_commands_shown_exist_with_their_options(page: Path) -> None:
    for line in typed(page):
        assert (wrong := misused(line)) is None, f"{page.name}: {line}: {wrong}"


@pytest.mark.parametrize("name", ["Jenkinsfile", "Jenkinsfile.sparrowdo"])
def test_the_commands_of_jenkins_exist_with_their_options(name: str) -> None:
    text = (TOP / "ci" / name).read_text(encoding="utf-8")
    lines = re.findall(r"(?:sh '|^ *)(golden [^'\n]*)", text, flags=re.MULTILINE)
    assert len(lines) >= 5
    assert {line: misused(line) for line in lines} == dict.fromkeys(lines)
    assert text.count("{") == text.count("}")


def misused(line: str) -> str | None:
    """What is wrong with a command line of golden's; options are looked up in the command itself."""
    words = shlex.split(re.sub(r"\[([^]]*)\]…?", r"\1", line), comments=True)
    command: click.Command = golden
    is_value = False
    for word in words[words.index("golden") + 1 :]:
        options = {name: option for option in command.params for name in (*option.opts, *option.secondary_opts)}
        if word == "--":
            return None
        if is_value:
            is_value = False
        elif word.startswith("-"):
            name, has_value, _ = word.partition("=")
            if name in ("--help", "-h"):
                continue
            if name not in options:
                return f"it has no option {name}"
            is_value = not has_value and not getattr(options[name], "is_flag", False)
        elif isinstance(command, click.Group):
            if word not in command.commands:
                return f"there is no command '{word}'"
            command = command.commands[word]
    return None


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("golden clone create web1 --image rocky9-base --no-wait", None),
        ("GOLDEN_STATE=/x golden --progress quiet build --dry-run rocky9-base    # --no-such", None),
        ("golden clone ssh web1 -- uname --all", None),
        ("golden cache prune [--keep N]", None),
        ("golden bild", "there is no command 'bild'"),
        ("golden clone make web1", "there is no command 'make'"),
        ("golden clone create web1 --imge x", "it has no option --imge"),
        ("golden build --state /x", "it has no option --state"),
    ],
)
def test_what_is_wrong_with_a_command_is_found(line: str, wrong: str | None) -> None:
    assert misused(line) == wrong


TOML = [(page, block) for page in PAGES for language, block in fences(page) if language == "toml"]


@pytest.mark.parametrize(("page", "block"), TOML, ids=[f"{page.name}-{n}" for n, (page, _) in enumerate(TOML)])
def test_the_toml_shown_is_accepted(page: Path, block: str, tmp_path: Path) -> None:
    """Whole files as they are; steps, or a part, with as little around it as makes a whole."""
    if block.startswith(f"# {declaration.FILE}"):
        for name in re.findall(r"\w+\.sh", block):
            (tmp_path / name).touch()
        (tmp_path / declaration.FILE).write_text(block)
        assert declaration.load(tmp_path / declaration.FILE, top=tmp_path).scripts
        return
    if block.startswith("{"):
        steps = block.replace("}\n{", "},\n{")
        block = f'[image.rocky9-x]\ndistribution = "rocky9"\nsteps = [\n{steps}]\n'
    images = tomllib.loads(block).get("image", {})
    parents = {image.get("parent") for image in images.values()} - {None, *images}
    below = "".join(f'[image."{name}"]\ndistribution = "{name.partition("-")[0]}"\n' for name in sorted(parents))
    if any(name.startswith("sandbox-") for name in images):
        below += '[distribution.sandbox]\ninherits = "el9"\nsource = { dvd = "sandbox.iso" }\n'
    if block.startswith(f"# {private.FILE}"):
        (tmp_path / private.FILE).write_text(block)
        block = "".join(f'[image.{name}]\ndistribution = "{name.partition("-")[0]}"\n' for name in images)
    (tmp_path / "golden.toml").write_text(block + below)
    project = config.load(tmp_path / "golden.toml")
    said = tomllib.loads(block)
    assert project.images or said.get("distribution", {}).keys() <= project.distributions.keys()


def test_the_file_shown_in_the_readme_is_whole(tmp_path: Path) -> None:
    (block,) = [block for page, block in TOML if page.name == "README.md"]
    (tmp_path / "golden.toml").write_text(block)
    assert list(config.load(tmp_path / "golden.toml").images) == [
        "rocky9-base",
        "rocky9-upgrade",
        "rocky9-web-installed",
    ]


def commands(command: click.Command, path: str = "golden") -> list[tuple[str, click.Command]]:
    below = command.commands.items() if isinstance(command, click.Group) else ()
    return [(path, command)] + [found for name, child in below for found in commands(child, f"{path} {name}")]


@pytest.mark.parametrize(
    ("path", "command"), commands(golden), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_command_has_help_with_an_example(path: str, command: click.Command) -> None:
    assert command.help, path
    if not isinstance(command, click.Group):
        assert path in (command.epilog or ""), f"{path} --help shows no example"


def test_the_distributions_listed_are_those_of_the_catalogue(tmp_path: Path) -> None:
    text = (TOP / "docs/distributions.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([a-z0-9-]+)` \| ([^|]+) \| ([A-Z0-9]+) \| ([a-z ]+) \|$", text, flags=re.MULTILINE)
    known = config.without_file(tmp_path / "golden.toml").distributions.values()
    assert listed == [
        (it.name, it.title, it.kickstart_version, "network tree" if it.source else "yours") for it in known
    ]


def test_every_key_of_a_tests_declaration_is_described() -> None:
    text = (TOP / "docs/testing.md").read_text(encoding="utf-8")
    for key in declaration._Test.model_fields:
        assert re.search(rf"`{key}`|^{key} = ", text, flags=re.MULTILINE), f"{key} is missing in docs/testing.md"


def test_it_is_said_of_every_command_what_it_needs() -> None:
    text = (TOP / "docs/security.md").read_text(encoding="utf-8").partition("## What each command needs")[2]
    named = {
        name
        for row in re.findall(r"^\| (`[^|]*) \|", text, flags=re.MULTILINE)
        for name in re.findall("`([^`]*)`", row)
    }
    for path, command in commands(golden):
        words = path.split()[1:]
        ways = {" ".join(words), f"{words[0]} …"} if words else set()
        assert isinstance(command, click.Group) or ways & named, f"{path} is missing in docs/security.md"
    for name in named:
        assert misused(f"golden {name.removesuffix(' …')}") is None
