backbone = dict(type='mmvssd.VSSD', arch='tiny-iccv2025')
dims = [96, 192, 384, 768]
checkpoint = 'checkpoints/vssd-tiny-iccv2025_in1k.pth'
