"""`{ install = ["jq"], timeout = "5 min" }` -> Install(...): a recipe's steps; what is wrong, in a user's words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

from builder.config_values import (
    OWNER,
    Options,
    guest_path,
    has_control,
    need_known_keys,
    need_true,
    parse_file_options,
    parse_lists,
    parse_table,
    parse_texts,
    project_path,
    without_dash,
)
from builder.errors import did_you_mean
from builder.frozen import Frozen
from builder.model import NAME
from builder.steps import (
    Ansible,
    Copy,
    Groups,
    Install,
    Modules,
    Reboot,
    Remove,
    Repos,
    Run,
    Selinux,
    Services,
    Shell,
    Sparrowdo,
    SshKeys,
    Step,
    Upgrade,
    Write,
    is_public_key,
)
from builder.units import parse_duration

# Boolean names of SELinux and units of systemd: nothing that a shell or an option parser could take for its own.
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@\\-]*")
_MODULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*(:[A-Za-z0-9_.+-]+)?(/[A-Za-z0-9_.+-]+)?")


class Parsed(Frozen):
    """A step, and the distributions that it is for; all if there are none."""

    step: Step
    only: tuple[str, ...] = ()


def parse_step(raw: object) -> Parsed:
    """One table of `steps`. Raises ValueError with the message for the user."""
    if not isinstance(raw, dict):
        raise ValueError(f"a step is a table, such as {{ install = [...] }}, not {raw!r}")
    kinds = [key for key in raw if key in _PARSERS]
    if len(kinds) != 1:
        _refuse_kinds(raw, kinds)
    kind = kinds[0]
    parser, known = _PARSERS[kind]
    allowed = ("timeout", "only", *known)
    for key in raw:
        if key != kind and key not in allowed:
            raise ValueError(f"'{kind}' has no option '{key}'{did_you_mean(key, allowed)}")
    fields = parser(raw[kind], raw)
    if "timeout" in raw:
        fields["timeout_s"] = parse_duration(str(raw["timeout"]))
    only = tuple(parse_texts(raw["only"], "only")) if "only" in raw else ()
    return Parsed.model_validate({"step": _MODELS[kind].model_validate(fields), "only": only})


def _refuse_kinds(raw: Mapping[str, object], kinds: list[str]) -> None:
    words = kinds or [key for key in raw if key not in ("timeout", "only")]
    if len(words) == 1:
        raise ValueError(f"unknown step '{words[0]}'{did_you_mean(words[0], _PARSERS)}")
    raise ValueError(f"a step says one thing to do, one of {', '.join(_PARSERS)}; this one has {words or 'none'}")


# --- one parser for each kind: value and options -> the model's fields ------------------------------------------


def _upgrade(value: object, _options: Options) -> dict[str, Any]:
    return need_true("upgrade", value)


def _reboot(value: object, _options: Options) -> dict[str, Any]:
    return need_true("reboot", value)


def _packages(kind: str) -> Callable[[object, Options], dict[str, Any]]:
    field = "groups" if kind == "groups" else "packages"
    return lambda value, _options: {field: without_dash(parse_texts(value, kind))}


def _commands(kind: str) -> Callable[[object, Options], dict[str, Any]]:
    return lambda value, _options: {"commands": parse_texts(value, kind)}


def _script(value: object, _options: Options) -> dict[str, Any]:
    return {"script": project_path(value)}


def _modules(value: object, _options: Options) -> dict[str, Any]:
    fields = parse_lists(value, "modules", ("enable", "disable", "install"))
    for key, names in fields.items():
        for name in names:
            if not _MODULE.fullmatch(name) or (key != "disable" and ":" not in name):
                raise ValueError(
                    f"'{name}' is no module to {key}; write {'NAME' if key == 'disable' else 'NAME:STREAM'}"
                )
    return fields


def _services(value: object, _options: Options) -> dict[str, Any]:
    fields = parse_lists(value, "services", ("enable", "disable", "mask"))
    for names in fields.values():
        for name in names:
            if not _WORD.fullmatch(name):
                raise ValueError(f"'{name}' is not the name of a unit")
    return fields


def _selinux(value: object, _options: Options) -> dict[str, Any]:
    table = parse_table(value, "selinux", '{ mode = "permissive", booleans = { … } }')
    need_known_keys(table, "selinux", ("mode", "booleans"))
    mode, booleans = table.get("mode"), table.get("booleans", {})
    modes = ("enforcing", "permissive", "disabled")
    if mode is not None and mode not in modes:
        raise ValueError(f"'{mode}' is no mode of SELinux{did_you_mean(str(mode), modes)}; one of {', '.join(modes)}")
    if not isinstance(booleans, dict) or not all(isinstance(state, bool) for state in booleans.values()):
        raise ValueError("'booleans' is a table of names and true or false")
    for name in booleans:
        if not _WORD.fullmatch(name):
            raise ValueError(f"'{name}' is not the name of a boolean")
    if mode is None and not booleans:
        raise ValueError("'selinux' says nothing to do; give a mode, booleans, or both")
    return {"mode": mode, "booleans": booleans}


def _copy(value: object, options: Options) -> dict[str, Any]:
    table = parse_table(value, "copy", '{ "files/app" = "/opt/app" }')
    return {"paths": {project_path(key): guest_path(to) for key, to in table.items()}, **parse_file_options(options)}


def _write(value: object, options: Options) -> dict[str, Any]:
    table = parse_table(value, "write", '{ "/etc/motd" = "text" }')
    texts = {}
    for path, text in table.items():
        if not isinstance(text, str):
            raise ValueError(f"what is written to '{path}' is a text, not {text!r}")
        if path.endswith("/"):
            raise ValueError(f"'{path}' is a folder; name the file to write")
        texts[guest_path(path)] = text
    return {"texts": texts, **parse_file_options(options)}


def _sshkeys(value: object, options: Options) -> dict[str, Any]:
    keys = parse_texts(value, "sshkeys")
    for key in keys:
        if not is_public_key(key):
            project_path(key)
        if "PRIVATE KEY" in key:
            raise ValueError("that is a private key; an image takes the public half")
    user = options.get("user", "root")
    if not isinstance(user, str) or not OWNER.fullmatch(user) or ":" in user:
        raise ValueError(f"'{user}' is not the name of a user")
    return {"keys": [key.strip() for key in keys], "user": user}


def _repos(value: object, options: Options) -> dict[str, Any]:
    table = parse_table(value, "repos", '{ extras = "https://…" }')
    is_kept, gpgkey = options.get("keep", True), options.get("gpgkey")
    if not isinstance(is_kept, bool):
        raise ValueError("'keep' is true or false")
    if gpgkey is not None and (not isinstance(gpgkey, str) or has_control(gpgkey) or "://" not in gpgkey):
        raise ValueError("'gpgkey' is the URL of a key")
    urls = {}
    for name, url in table.items():
        if not NAME.fullmatch(name):
            raise ValueError(f"'{name}' is not a name; use a-z, 0-9, and single '-' or '.' between them")
        if not isinstance(url, str) or has_control(url) or " " in url:
            raise ValueError(f"'{name}' needs an http(s) URL or a folder of the project")
        if "://" not in url and is_kept:
            raise ValueError(
                f"'{name}' is a folder of the project, which no finished guest can reach; add keep = false"
            )
        urls[name] = url if "://" in url else project_path(url)
    return {"urls": urls, "is_kept": is_kept, "gpgkey": gpgkey}


def _ansible(value: object, options: Options) -> dict[str, Any]:
    playbook = project_path(value)
    if PurePosixPath(playbook).parent == PurePosixPath("."):
        raise ValueError(
            f"the playbook '{playbook}' lies beside golden.toml; put it into a folder of its own, "
            f"such as ansible/{playbook}: all of that folder counts"
        )
    variables = options.get("vars", {})
    if not isinstance(variables, dict):
        raise ValueError("'vars' is a table")
    folders = {
        key: [project_path(path) for path in parse_texts(options[key], key)] for key in _FOLDERS if key in options
    }
    groups = parse_texts(options["in_groups"], "in_groups") if "in_groups" in options else []
    for group in groups:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", group):
            raise ValueError(f"'{group}' is not the name of an inventory group")
    return {"playbook": playbook, "groups": groups, "variables": variables, **folders}


# What Sparrowdo hands to shells unquoted. Source: Sparrowdo::Ssh, where commands are joined by blanks.
_PLAIN = re.compile(r"[A-Za-z0-9_./@:-]+")
_SPARROWDO = (
    *("bootstrap", "sparrowfile", "plugins", "modules", "repository", "tags", "secrets", "user", "sudo", "zef"),
    *("versions", "expires", "resolves", "retries"),
)


def _sparrowdo(value: object, _options: Options) -> dict[str, Any]:
    table = parse_table(value, "sparrowdo", '{ bootstrap = true, sparrowfile = "sparrow/ci.raku" }')
    need_known_keys(table, "sparrowdo", _SPARROWDO)
    fields: dict[str, Any] = {}
    for key, field in (("bootstrap", "bootstrap"), ("sudo", "is_sudo")):
        if key in table:
            if not isinstance(table[key], bool):
                raise ValueError(f"'{key}' is true or false")
            fields[field] = table[key]
    for key in ("plugins", "modules", "resolves"):
        if key in table:
            fields[key] = [_plain(word, key) for word in parse_texts(table[key], key)]
    if "sparrowfile" in table:
        fields["sparrowfiles"] = [project_path(path) for path in parse_texts(table["sparrowfile"], "sparrowfile")]
    for key in ("secrets", "zef"):
        if key in table:
            fields[key] = project_path(table[key])
    if "repository" in table:
        fields["repository"] = _sparrow_repository(table["repository"])
    if "user" in table:
        fields["user"] = _plain(table["user"], "user")
    if "tags" in table:
        tags = parse_table(table["tags"], "tags", '{ os = "el9", quick = true }')
        fields["tags"] = {_plain(k, "tags"): "" if v is True else _plain(v, "tags") for k, v in tags.items()}
    if "versions" in table:
        versions = parse_table(table["versions"], "versions", '{ raku = "2022.12", sparrow6 = "0.0.94" }')
        need_known_keys(versions, "versions", ("raku", "sparrow6"))
        fields["versions"] = {name: _plain(version, "versions") for name, version in versions.items()}
    if "expires" in table:
        fields["expires_days"] = _days(table["expires"])
    if "retries" in table:
        if table["retries"] not in (0, 1, 2, 3) or isinstance(table["retries"], bool):
            raise ValueError("'retries' is a whole number from 0 to 3")
        fields["retries"] = table["retries"]
    if not (fields.get("bootstrap", True) or {"sparrowfiles", "plugins", "modules"} & set(fields)):
        raise ValueError("'sparrowdo' says nothing to do; it has bootstrap = false, and no sparrowfile")
    return fields


def _sparrow_repository(value: object) -> str:
    if value == "public":
        return "public"
    if isinstance(value, str) and "://" in value:
        if not value.startswith(("http://", "https://")):
            raise ValueError(
                f"'{value}' is no repository; write \"public\", an http(s) URL, or a folder of the project"
            )
        return _plain(value, "repository")
    return project_path(value)


def _days(value: object) -> int:
    days, rest = divmod(parse_duration(str(value)), 24 * 3600)
    if rest or not days:
        raise ValueError(f"'expires' is whole days, such as \"30 d\", not {value!r}")
    return days


def _plain(value: object, key: str) -> str:
    if not isinstance(value, str) or not _PLAIN.fullmatch(value) or value.startswith("-"):
        raise ValueError(
            f"{value!r} in '{key}' cannot be handed to Sparrowdo, which quotes nothing; "
            "use letters, digits and _ . / @ : -"
        )
    return value


_FOLDERS = ("roles", "collections")
_PARSERS: dict[str, tuple[Callable[[Any, Options], dict[str, Any]], tuple[str, ...]]] = {
    "upgrade": (_upgrade, ()),
    "install": (_packages("install"), ()),
    "remove": (_packages("remove"), ()),
    "groups": (_packages("groups"), ()),
    "modules": (_modules, ()),
    "copy": (_copy, ("mode", "owner")),
    "write": (_write, ("mode", "owner")),
    "run": (_commands("run"), ()),
    "script": (_script, ()),
    "services": (_services, ()),
    "selinux": (_selinux, ()),
    "sshkeys": (_sshkeys, ("user",)),
    "repos": (_repos, ("keep", "gpgkey")),
    "shell": (_commands("shell"), ()),
    "ansible": (_ansible, (*_FOLDERS, "in_groups", "vars")),
    "sparrowdo": (_sparrowdo, ()),
    "reboot": (_reboot, ()),
}
_MODELS: dict[str, type[Frozen]] = {
    "upgrade": Upgrade,
    "install": Install,
    "remove": Remove,
    "groups": Groups,
    "modules": Modules,
    "copy": Copy,
    "write": Write,
    "run": Run,
    "script": Run,
    "services": Services,
    "selinux": Selinux,
    "sshkeys": SshKeys,
    "repos": Repos,
    "shell": Shell,
    "ansible": Ansible,
    "sparrowdo": Sparrowdo,
    "reboot": Reboot,
}
