"""A reproduction of *Question Translation Training for Better Multilingual Reasoning* (arXiv 2401.07817)."""

__version__ = "0.1.0"
