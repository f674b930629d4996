"""Hostile input for each reader that is golden's own.

`readers` says what each may answer; `tests/unit/test_hostile_input.py` gives them what hypothesis thinks of, and
`python -m tests.fuzz` (`make fuzz`, extra `fuzz`) what atheris finds by looking at which code it reaches.
"""
