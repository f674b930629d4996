"""Images in use: machines for tests, suites that run on them, what is kept of a run, and what a host has to offer.

lab          where machines for tests come from            guest        one of them, as a test sees it
declaration  golden-test.toml                              suite        all of a project's tests, run after run
schedule     which attempt runs when                       attempt      one of them: boot, run, judge, keep
payload      scripts, a sparrowfile, pytest                disk_results for tests without a network
boot         machines until they answer                 lans         networks of their own
watch, vigil is the guest dead?                            outcome, reports   verdicts; TAP and JUnit
evidence     what is kept; the bundle of a failure         revival      a bundle opened again
ost          a folder and an environment for ost-images    status       how this machine stands
The pytest plugin is builder/pytest_golden.py.
"""
