"""What differs between two sets of inputs, in one line for people, with the change itself."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from builder.frozen import Frozen

# In place of a digest that only a download can tell.
NOT_KNOWN = "not known before it is downloaded"
# In place of the digest of a package repository that does not answer, and never did.
NEEDS_NETWORK = "needs the network"
_UNKNOWN = {NOT_KNOWN: f"is {NOT_KNOWN}", NEEDS_NETWORK: NEEDS_NETWORK}

# A reason is one line; a whole folder of changed files is not.
_MOST_CHANGES = 5
_MOST_LINES = 2
_LONGEST_LINE = 100
_DIGEST_SHOWN = 8

Kind = Literal["new", "gone", "unknown", "changed"]


class Change(Frozen):
    """One input that differs. before, after: its digest or text, None where there is none.

    short: "kickstart changed". detail: the same with the change itself, one line. diff: all lines that differ, each
    with "-" or "+" in front; empty where nothing but digests is kept.
    """

    input: str
    kind: Kind
    before: str | None
    after: str | None
    short: str
    detail: str
    diff: tuple[str, ...] = ()


def changes(
    old: Mapping[str, str],
    new: Mapping[str, str],
    *,
    old_texts: Mapping[str, str] | None = None,
    new_texts: Mapping[str, str] | None = None,
) -> list[Change]:
    """old_texts, new_texts: what is behind the digests, of the inputs for which that is kept."""
    before, after = old_texts or {}, new_texts or {}
    found = [_change(name, "new", None, new[name]) for name in new if name not in old]
    found += [_change(name, "gone", old[name], None) for name in old if name not in new]
    found += [_change(name, "unknown", old.get(name), new[name]) for name in new if new[name] in _UNKNOWN]
    for name in new:
        if name in old and new[name] not in (old[name], *_UNKNOWN):
            found.append(_changed(name, old[name], new[name], before.get(name), after.get(name)))
    return found


def in_short(found: Sequence[Change]) -> str:
    """ "kickstart changed, step 2: install is new": all in one line."""
    return _one_line([change.short for change in found])


def in_detail(found: Sequence[Change]) -> str:
    return _one_line([change.detail for change in found])


def _one_line(words: Sequence[str]) -> str:
    more = len(words) - _MOST_CHANGES
    return ", ".join([*words[:_MOST_CHANGES], *([f"and {more} more"] if more > 0 else [])])


def _change(name: str, kind: Kind, before: str | None, after: str | None) -> Change:
    short = f"{name} {_UNKNOWN[after or ''] if kind == 'unknown' else f'is {kind}'}"
    value = before if kind == "gone" else after
    shown = _shown(value) if value is not None and kind != "unknown" else ""
    detail = f"{short} ({shown})" if shown else short
    return Change(input=name, kind=kind, before=before, after=after, short=short, detail=detail)


def _changed(name: str, old: str, new: str, old_text: str | None, new_text: str | None) -> Change:
    short = f"{name} changed"
    diff: tuple[tuple[int, str], ...] = ()
    if name.startswith("repository "):
        # Its text is one line: which repomd.xml this was, and of when.
        words = [
            f"{_shown(value)}{f' ({_bounded(text)})' if text else ''}"
            for value, text in ((old, old_text), (new, new_text))
        ]
        detail = f"{name}: repomd.xml {words[0]} -> {words[1]}"
    elif old_text is not None and new_text is not None:
        diff = _diff(old_text.splitlines(), new_text.splitlines())
        detail = f"{name}: {_few(diff)}" if diff else f"{name} changed in a line that is not kept, as of a password"
    elif _is_text(old) and _is_text(new) and (diff := _diff(_lines(old), _lines(new))):
        detail = f"{name}: {_few(diff)}"
    else:
        detail = f"{name}: {_shown(old)} -> {_shown(new)}"
    return Change(
        input=name, kind="changed", before=old, after=new, short=short, detail=detail, diff=tuple(x for _, x in diff)
    )


def _diff(old: Sequence[str], new: Sequence[str]) -> tuple[tuple[int, str], ...]:
    """(number of the line, "-text" or "+text"); numbers are of the file that has the line."""
    found = []
    for tag, a, a_end, b, b_end in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            found += [(number + 1, f"-{old[number]}") for number in range(a, a_end)]
            found += [(number + 1, f"+{new[number]}") for number in range(b, b_end)]
    return tuple(found)


def _few(diff: Sequence[tuple[int, str]]) -> str:
    """The first lines of a difference, and how many more there are."""
    first = [_bounded(text) for _, text in diff[:_MOST_LINES]]
    more = len(diff) - _MOST_LINES
    return f"line {diff[0][0]}: {' '.join(first)}{f' and {more} more lines' if more > 0 else ''}"


def _is_text(value: str) -> bool:
    return value.startswith("{")


def _lines(value: str) -> list[str]:
    """A step's JSON with one line for each thing it says."""
    try:
        found = json.loads(value)
    except json.JSONDecodeError:
        return [value]
    if not isinstance(found, dict):
        return [value]
    lines: list[str] = []
    for key, said in found.items():
        lines += _said(key, said)
    return lines


def _said(key: str, said: object) -> Iterable[str]:
    if isinstance(said, list):
        return [f"{key}: {line}" for each in said for line in str(each).splitlines()]
    if isinstance(said, dict):
        return [f"{key}: {name} = {line}" for name, each in said.items() for line in str(each).splitlines()]
    return [f"{key}: {line}" for line in str(said).splitlines()]


def _shown(value: str) -> str:
    """A digest or key cut short, a step's text as it is, both within bounds."""
    word, _, digest = value.partition(" ")
    if word == "sha256":
        return digest[:_DIGEST_SHOWN]
    if len(value) == 64 and all(character in "0123456789abcdef" for character in value):
        return value[:_DIGEST_SHOWN]
    return _bounded("; ".join(_lines(value)) if _is_text(value) else value)


def _bounded(text: str) -> str:
    """One line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}…"
