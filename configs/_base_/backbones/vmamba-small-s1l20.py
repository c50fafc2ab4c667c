backbone = dict(type='mmvssd.VMamba', arch='small-s1l20')
dims = [96, 192, 384, 768]
checkpoint = 'checkpoints/vmamba-small-s1l20_in1k.pth'
