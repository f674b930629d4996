"""createrepo_c on a host whose rpm is newer than the one inside of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# To an older rpm that does not see strings in Lua, a body without an end, as %add_sysuser of 4.20 is.
NEWER = """\
%newer(-) %{lua:
    print('{')
}
"""
MACROS = "/usr/lib/rpm/macros"


def said(statement: str, macros: Path) -> str:
    """What the statement has to say on standard error where these are the host's macros."""
    script = f'mount --bind "$1" {MACROS} && exec "$2" -c "$3"'
    words = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", macros, sys.executable, statement]
    return subprocess.run(words, check=True, capture_output=True, text=True).stderr


def test_newer_macros_of_the_host_are_no_errors(tmp_path: Path) -> None:
    (tmp_path / "macros").write_text(NEWER)
    assert "unterminated" in said("import createrepo_c", tmp_path / "macros")
    # Both that use it; and what golden starts has the host's macros.
    ours = "import builder.artifacts, builder.tools.createrepo, os; assert 'RPM_CONFIGDIR' not in os.environ"
    assert said(ours, tmp_path / "macros") == ""
