backbone = dict(type='mmvssd.VSSD', arch='base')
dims = [96, 192, 384, 768]
checkpoint = 'checkpoints/vssd-base_in1k.pth'
