"""edge_derm: compressed image classifiers for small boards, with the evidence to trust them there."""

__version__ = "0.1.0"
