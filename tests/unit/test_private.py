"""golden.private.toml, privacy that is handed on, flat images and password hashes in golden.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.config import load
from builder.errors import ConfigError
from builder.inputs import image_inputs
from builder.model import Project
from builder.plan import order
from builder.private import merged
from builder.steps import RootPassword, Run, Upgrade

PUBLIC = """\
[distribution.sandbox]
inherits = "el9"
[distribution.other]
inherits = "el9"
[image.sandbox-base]
distribution = "sandbox"
[image.sandbox-upgrade]
parent = "sandbox-base"
steps = [{ upgrade = true }]
flat = true
[image.sandbox-app]
parent = "sandbox-upgrade"
flat = true
[image.sandbox-tools]
parent = "sandbox-upgrade"
[image.other-base]
distribution = "other"
"""
HASH = "$6$saltsaltsalt$" + "h" * 86


def project(folder: Path, *, public: str = PUBLIC, private: str | None = None) -> Project:
    (folder / "golden.toml").write_text(public, encoding="utf-8")
    if private is not None:
        (folder / "golden.private.toml").write_text(private, encoding="utf-8")
    return load(folder / "golden.toml")


def problems(folder: Path, *, public: str = PUBLIC, private: str | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        project(folder, public=public, private=private)
    return [str(problem) for problem in caught.value.problems]


def private_images(found: Project) -> set[str]:
    return {image.name for image in found.images.values() if image.is_private}


def test_tables_are_merged_and_everything_else_is_replaced() -> None:
    public = {"a": {"x": [1, 2], "y": {"z": 1}}, "b": 1}
    assert merged(public, {"a": {"x": [3], "y": {"w": 2}}, "c": 4}) == {
        "a": {"x": [3], "y": {"z": 1, "w": 2}},
        "b": 1,
        "c": 4,
    }
    assert public == {"a": {"x": [1, 2], "y": {"z": 1}}, "b": 1}


def test_without_a_private_file_nothing_is_private(tmp_path: Path) -> None:
    assert private_images(project(tmp_path)) == set()


def test_what_a_private_file_touches_is_private_and_all_that_is_made_from_it(tmp_path: Path) -> None:
    found = project(tmp_path, private='[image.sandbox-app]\nsteps = [{ run = "patch" }]\n')
    assert found.images["sandbox-app"].steps == (Run(commands=("patch",)),)
    assert found.images["sandbox-app"].parent == "sandbox-upgrade"
    assert private_images(found) == {"sandbox-app", "sandbox-app-flat"}

    found = project(tmp_path, private='[image.sandbox-upgrade]\ndescription = "patched"\n')
    assert found.images["sandbox-upgrade"].steps == (Upgrade(),)
    assert private_images(found) == {
        *("sandbox-upgrade", "sandbox-upgrade-flat", "sandbox-app", "sandbox-app-flat", "sandbox-tools"),
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [("other", {"other-base"}), ("el9", "all"), ("rocky9", set())],
)
def test_a_private_distribution_makes_its_images_private(tmp_path: Path, name: str, expected: set[str] | str) -> None:
    found = project(tmp_path, private=f'[distribution.{name}]\nkernel_arguments = "quiet"\n')
    assert private_images(found) == (set(found.images) if expected == "all" else expected)


def test_a_private_image_of_its_own(tmp_path: Path) -> None:
    found = project(tmp_path, private='[image.sandbox-embargoed]\nparent = "sandbox-app"\n')
    assert private_images(found) == {"sandbox-embargoed"}


@pytest.mark.parametrize(
    "step",
    [
        '{ copy = { "golden.private/fix" = "/opt/fix" } }',
        '{ script = "golden.private/fix.sh" }',
        '{ sshkeys = ["golden.private/team.pub"] }',
        '{ repos = { embargoed = "golden.private/rpms" }, keep = false }',
        '{ ansible = "golden.private/play/site.yml" }',
    ],
)
def test_what_reads_from_the_private_folder_is_private_whichever_file_says_so(tmp_path: Path, step: str) -> None:
    image = f'[image.sandbox-fixed]\nparent = "sandbox-upgrade"\nflat = true\nsteps = [{step}]\n'
    assert private_images(project(tmp_path, public=PUBLIC + image)) == {"sandbox-fixed", "sandbox-fixed-flat"}
    public = image.replace("golden.private/", "golden.private.d/")
    assert private_images(project(tmp_path, public=PUBLIC + public)) == set()


def test_a_private_build_is_never_reused_for_a_public_image(tmp_path: Path) -> None:
    public = project(tmp_path).images["sandbox-tools"]
    private = project(tmp_path, private='[image.sandbox-tools]\ndescription = "x"\n').images["sandbox-tools"]
    inputs = [image_inputs(project(tmp_path), image, state=tmp_path).values for image in (public, private)]
    assert inputs[0] != inputs[1]
    assert set(inputs[1]) - set(inputs[0]) == {"privacy"}


def test_a_problem_in_the_private_file_names_that_file_and_its_line(tmp_path: Path) -> None:
    found = problems(
        tmp_path, public=PUBLIC + "[image.sandbox-z]\nparnt = 'x'\n", private="[image.sandbox-app]\n\nflt = true\n"
    )
    assert "line 3, golden.private.toml: image.sandbox-app.flt: unknown key, did you mean 'flat'?" in found
    assert any(line.startswith("line 19, image.sandbox-z.parnt: unknown key") for line in found)


def test_a_private_file_that_is_no_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"golden\.private\.toml is not TOML"):
        project(tmp_path, private="[image")


def test_flat_makes_an_image_of_its_own(tmp_path: Path) -> None:
    found = project(tmp_path)
    flat = found.images["sandbox-app-flat"]
    assert (flat.flat_of, flat.parent, flat.steps, flat.layer) == ("sandbox-app", None, (), "app-flat")
    assert order(found, ["sandbox-app-flat"]) == [
        *("sandbox-base", "sandbox-upgrade", "sandbox-app", "sandbox-app-flat"),
    ]


def test_a_stable_link_to_the_flat_form_makes_that_along(tmp_path: Path) -> None:
    public = PUBLIC.replace("flat = true", 'stable = "flat"')
    assert public != PUBLIC
    found = project(tmp_path, public=public)
    assert found.images["sandbox-app-flat"].flat_of == "sandbox-app"
    assert found.flat_links == {"sandbox-upgrade", "sandbox-app"}
    wrong = problems(tmp_path, public=public.replace('"flat"', '"flt"'))
    assert [line for line in wrong if "sandbox-app.stable" in line and "'chain' or 'flat'" in line]


def test_an_image_with_the_name_of_a_flat_one(tmp_path: Path) -> None:
    found = problems(tmp_path, public=PUBLIC + '[image.sandbox-app-flat]\nparent = "sandbox-app"\n')
    assert found == ["line 18, image.sandbox-app-flat: 'sandbox-app' is also made flat, which makes this image"]


def test_the_mark_of_private_leaves_is_kept_for_them(tmp_path: Path) -> None:
    found = problems(tmp_path, public=PUBLIC + '[image.sandbox-app-private-x]\nparent = "sandbox-app"\n')
    assert found == ["line 18, image.sandbox-app-private-x: '-private-' is kept for the images of golden build --with"]


def with_hash(value: str) -> str:
    return f"[project]\nroot_password_hash = {value}\n{PUBLIC}"


@pytest.mark.parametrize(
    "value", ['"hunter2-hunter2"', "1234567", '"$1$salt$abcdefghijklmnopqrstuv"', f'"{HASH}\\nroot::"', f'["{HASH}"]']
)
def test_a_password_is_refused_without_repeating_it(tmp_path: Path, value: str) -> None:
    (found,) = problems(tmp_path, public=with_hash(value))
    assert found == (
        "line 2, project.root_password_hash: is not the hash of a password, such as '$6$…'; "
        "a password itself has no place here. Make a hash by: openssl passwd -6"
    )


def test_a_hash_is_a_step_of_bases_alone_and_shown_nowhere(tmp_path: Path) -> None:
    found = project(tmp_path, public=with_hash(f'"{HASH}"'))
    (step,) = found.images["sandbox-base"].steps
    assert isinstance(step, RootPassword)
    assert step.hash.get_secret_value() == HASH
    assert found.images["sandbox-app"].steps == ()
    for shown in (repr(found), str(found), found.model_dump_json(), step.model_dump_json()):
        assert HASH not in shown
    other = RootPassword(hash=HASH[:-1] + "i")  # type: ignore[arg-type]
    assert other.model_dump_json() != step.model_dump_json()  # a new password is a new key
