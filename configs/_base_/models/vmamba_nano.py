# A VMamba small enough to learn the sample data on a laptop's CPU; of the two versions the first
# learns it in fewer steps.
nano = dict(
    type='mmvssd.VMamba',
    arch=dict(
        embed_dims=24,
        depths=(1, 1, 2, 1),
        version='v0'))
