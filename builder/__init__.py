"""golden: VM images as a chain of qcow2 layers, RPMs that follow the chain, and clones of them."""

__version__ = "0.1.0"
