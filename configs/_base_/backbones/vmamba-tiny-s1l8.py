backbone = dict(type='mmvssd.VMamba', arch='tiny-s1l8')
dims = [96, 192, 384, 768]
checkpoint = 'checkpoints/vmamba-tiny-s1l8_in1k.pth'
