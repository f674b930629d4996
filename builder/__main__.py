"""`python -m builder` is `golden`."""

from builder.cli import main

main()
