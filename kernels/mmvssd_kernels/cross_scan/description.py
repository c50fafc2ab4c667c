"""What ``cross_scan`` and ``cross_merge`` take and give."""
from mmvssd_kernels.description import Description, Input, describe

#: 8 channels over one image of 3 x 4 tokens.
SIZES = dict(N=1, H=3, W=4, K=4, D=8)
CROSS_SCAN = describe(Description(
    'cross_scan', dict(x=Input('N D H W')), 'N K D L', SIZES, linear=True))
CROSS_MERGE = describe(Description(
    'cross_merge', dict(y=Input('N K D L')), 'N D H W', SIZES, linear=True,
    options=lambda sizes: dict(grid=(sizes['H'], sizes['W']))))
