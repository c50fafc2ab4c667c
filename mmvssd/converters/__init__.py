"""Published checkpoints' names to the names of models built here."""
from mmvssd.converters.official import Conversion, convert, from_official

__all__ = ['Conversion', 'convert', 'from_official']
