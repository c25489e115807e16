"""The version of the package. setup.py reads this file as text, so it must not import anything."""

__version__ = "0.1.0"
