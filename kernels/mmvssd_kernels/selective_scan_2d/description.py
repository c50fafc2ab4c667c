"""What ``selective_scan_2d`` takes and gives."""
from mmvssd_kernels.description import Description, Input, describe
from mmvssd_kernels.selective_scan.description import BIAS, DECAY

#: 8 channels over one image of 3 x 4 tokens.
SELECTIVE_SCAN_2D = describe(Description(
    'selective_scan_2d',
    dict(x=Input('N H W D'), dt=Input('N H W K R'), dt_weight=Input('K D R', (-0.2, 0.2)),
         A=DECAY, B=Input('N H W K S'), C=Input('N H W K S'), D=Input('KD'), dt_bias=BIAS),
    'N H W D', dict(N=1, H=3, W=4, K=4, D=8, R=3, S=2), mask='N H W', widens=True))
