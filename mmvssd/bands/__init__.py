"""Images that are no photographs: of any number of bands, of 16 bits or of real numbers."""
from mmvssd.bands.loading import LoadBands

__all__ = ['LoadBands']
