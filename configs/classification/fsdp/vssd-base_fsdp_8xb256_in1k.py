# Parameters, gradients and AdamW's state are spread over the GPUs; each block is gathered when it is
# needed. The recipe is the same, but for the moving average: it would be one of each process's part.
_base_ = '../vssd-base_8xb256_in1k.py'

strategy = dict(type='mmvssd.ShardedStrategy')

custom_hooks = []
