backbone = dict(type='mmvssd.VMamba', arch='base-s1l20')
dims = [128, 256, 512, 1024]
checkpoint = 'checkpoints/vmamba-base-s1l20_in1k.pth'
