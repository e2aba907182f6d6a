from __future__ import annotations

import subprocess
import sys

import leafport


def test_every_public_name_is_there_and_documented() -> None:
    for name in leafport.__all__:
        assert getattr(leafport, name).__doc__, name


def test_importing_is_light() -> None:
    program = "import sys, leafport; sys.exit(bool({'numpy', 'tensorflow', 'pydantic'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", program], check=True)
