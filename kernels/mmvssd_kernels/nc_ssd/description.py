"""What ``nc_ssd`` takes and gives."""
from mmvssd_kernels.description import Description, Input, describe

#: 2 heads over one image of 3 x 4 tokens.
NC_SSD = describe(Description(
    'nc_ssd',
    # steps and decays as the models start
    dict(x=Input('N L h P'), dt=Input('N L h', (1e-3, 0.1), widened=True), A=Input('h', (-16, -1)),
         B=Input('N L G S'), C=Input('N L G S'), D=Input('h')),
    'N L h P', dict(N=1, H=3, W=4, h=2, P=8, G=1, S=16), mask='N L'))
