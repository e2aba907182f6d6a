"""``python -m leafport`` is ``leafport``."""

from leafport.cli import main

main()
