"""Sparrowdo, the program: one run of it, what its failures mean, and the whole of a bootstrap.

Golden knows it as of version 0.1.54, with Sparrow6 0.0.94 in the guest. It runs here and reaches the guest by ssh.
"""
