"""What ``selective_scan`` takes and gives."""
from mmvssd_kernels.description import Description, Input, describe

DECAY = Input('KD S', (-16, -1))
#: softplus makes it 0.001 to 0.1, as the models start.
BIAS = Input('KD', (-7, -2))
#: 4 groups of 8 channels over one sequence of 12 tokens.
SELECTIVE_SCAN = describe(Description(
    'selective_scan',
    dict(u=Input('N KD L'), delta=Input('N KD L'), A=DECAY, B=Input('N K S L'),
         C=Input('N K S L'), D=Input('KD'), delta_bias=BIAS),
    'N KD L', dict(N=1, L=12, K=4, D=8, S=2), mask='N L', widens=True))
