"""What the start of a command costs: every test and every script pays it, each time."""

from __future__ import annotations

import subprocess
import sys

LOOK = """
import sys
from builder.cli import golden
golden.main(["distributions", "--json"], standalone_mode=False)
print(*(name for name in sys.modules if name.startswith("builder.cli.")), file=sys.stderr)
"""


def test_a_command_imports_nothing_of_the_others() -> None:
    ended = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    found = set(ended.stderr.split())
    assert "builder.cli.distributions" in found
    assert not found & {"builder.cli.build", "builder.cli.bisect", "builder.cli.clone", "builder.cli.test"}
