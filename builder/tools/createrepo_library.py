"""The library createrepo_c, as it is to be imported: without this host's RPM macros.

Its wheel has a librpm of its own, of 4.14, which reads the macros of the host's rpm once, when it is imported, and
complains on standard error of what it does not understand in those of 4.20 and later. It needs none of them.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path
from types import ModuleType

# Source: librpm, rpmConfigDir(). There has to be a file `rpmrc`.
_VARIABLE = "RPM_CONFIGDIR"
_NO_MACROS = Path(__file__).with_name("no_macros")


def _load(name: str) -> ModuleType:
    if _VARIABLE in os.environ or not _is_wheel(name):
        return importlib.import_module(name)
    os.environ[_VARIABLE] = str(_NO_MACROS)
    try:
        return importlib.import_module(name)
    finally:
        del os.environ[_VARIABLE]


def _is_wheel(name: str) -> bool:
    """Whether it came with its libraries, as auditwheel puts them; a distribution's own goes with the host's librpm."""
    found = importlib.util.find_spec(name)
    return found is not None and any(
        Path(place).with_name(f"{name}.libs").is_dir() for place in found.submodule_search_locations or ()
    )


createrepo_c = _load("createrepo_c")
