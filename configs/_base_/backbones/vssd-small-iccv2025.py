backbone = dict(type='mmvssd.VSSD', arch='small-iccv2025')
dims = [96, 192, 384, 768]
checkpoint = 'checkpoints/vssd-small-iccv2025_in1k.pth'
