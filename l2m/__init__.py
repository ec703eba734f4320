"""Mutual information scaling in text: the measurements of the L²M paper (arXiv 2503.04725).

Import the part that you need, for example ``from l2m.information.two_point import two_point_mi``. Nothing
heavy is loaded here, and torch or transformers only inside the functions that use them.
"""

__version__ = "0.1.0"
