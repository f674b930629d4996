"""Images in use: machines for tests, suites that run on them, what is kept of a run, and what a host has to offer.

lab.py          where machines for tests come from        guest.py      one of them, as a test sees it
pytest plugin   builder/pytest_golden.py
"""
