"""A warning at every start that a user of MMEngine can do nothing about.

MMEngine imports pkg_resources, and setuptools announces, a dozen times a run, that it will go. The
constraints hold setuptools to a version that has it.
"""
import warnings

MESSAGE = 'pkg_resources is deprecated as an API'


def apply() -> None:
    """Silence this one message; ``filterwarnings`` keeps a filter once however often it is set."""
    warnings.filterwarnings('ignore', message=MESSAGE, category=UserWarning)
