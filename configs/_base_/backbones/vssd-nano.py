# A VSSD small enough to learn the sample data on a laptop's CPU.
backbone = dict(
    type='mmvssd.VSSD',
    arch=dict(
        embed_dims=24,
        depths=(1, 1, 2, 1),
        num_heads=(2, 2, 4, 8),
        d_state=16,
        mlp_ratio=3))
dims = [24, 48, 96, 192]
checkpoint = 'work_dirs/vssd-nano_1xb64_digits/epoch_8.pth'  # of the sample recipe
