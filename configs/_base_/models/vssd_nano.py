# A VSSD small enough to learn the sample data on a laptop's CPU.
nano = dict(
    type='mmvssd.VSSD',
    arch=dict(
        embed_dims=24,
        depths=(1, 1, 2, 1),
        num_heads=(2, 2, 4, 8),
        d_state=16,
        mlp_ratio=3))
