"""A family as a package of its own adds it: its row, and beside it the two files named there."""
from mmvssd.families import Family, register_family

TOY = Family('toy', 'toy_family.backbone:Toy', 'toy_family.rules:RULES',
             nano=dict(embed_dims=16, depths=(1, 1, 2, 1), num_heads=4))
register_family(TOY)
