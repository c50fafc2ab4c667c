backbone = dict(type='mmvssd.VMamba', arch='tiny-s2l5')
dims = [96, 192, 384, 768]
checkpoint = 'checkpoints/vmamba-tiny-s2l5_in1k.pth'
