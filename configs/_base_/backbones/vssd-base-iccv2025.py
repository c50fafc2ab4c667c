backbone = dict(type='mmvssd.VSSD', arch='base-iccv2025')
dims = [96, 192, 384, 768]
checkpoint = 'checkpoints/vssd-base-iccv2025_in1k.pth'
