"""A stand-in for Anaconda: parses a kickstart with pykickstart and obeys it.

It runs inside the sandbox's installer, not in golden, and needs only what is there: Python, pykickstart, dnf. It
proves golden, not Anaconda: what it prints, when it stops to ask, and how it ends follow Anaconda where golden looks.
"""
