"""jinja2 templates: an undefined variable is an error, with the template's line."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from builder.errors import ConfigError, Problem

_PACKAGE = Path(__file__).parent


def shared(name: str) -> Path:
    """A folder that golden carries: `kickstarts`, `spec-templates`, `repo`. In a wheel it is inside the package."""
    packed = _PACKAGE / "share" / name
    return packed if packed.is_dir() else _PACKAGE.parent / name


def render(folders: Path | Sequence[Path], template: str, *, autoescape: bool = False, **variables: Any) -> str:
    """Render `template` from the first of `folders` that has it; what it includes is looked for likewise.

    autoescape: for HTML, in which a variable is never markup.
    Raises ConfigError naming file and line of what is undefined or wrong.
    """
    searched = [folders] if isinstance(folders, Path) else list(folders)
    # A project's own template is text of others: it fills in values, and reaches nothing of Python's.
    environment = ImmutableSandboxedEnvironment(
        loader=jinja2.FileSystemLoader(searched),
        undefined=jinja2.StrictUndefined,
        autoescape=autoescape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    try:
        return environment.get_template(template).render(**variables)
    except jinja2.TemplateSyntaxError as error:
        problem = Problem(error.filename or template, error.message or "syntax error", error.lineno)
    except jinja2.TemplateNotFound as error:
        problem = Problem(" or ".join(map(str, searched)), f"there is no template '{error.name}'")
    except Exception as error:  # also what an expression of theirs raises, as 1 / 0, and a file that is no text
        frames = traceback.extract_tb(error.__traceback__)
        inside = [f for f in frames if any(Path(f.filename).is_relative_to(folder) for folder in searched)]
        place = inside[-1] if inside else None
        what = error.message if isinstance(error, jinja2.TemplateError) else str(error)
        problem = Problem(
            place.filename if place else template, what or type(error).__name__, place.lineno if place else None
        )
    raise ConfigError(f"the template '{template}' could not be rendered", problems=[problem])
