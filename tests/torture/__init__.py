"""The crash campaign: golden's commands, ended at every place where something becomes visible, and run again.

`python -m tests.torture` (root; `make torture`) reports which places were tried and what survived.
"""
