"""Names of its published code."""
from mmvssd.converters.rules import Rules

RULES = Rules(
    renamed=(
        (r'embed\.(\w+)\.(\w+)', r'stem.\1.\2'),
        (r'level(\d+)\.block(\d+)\.(.+)', r'stages.\1.\2.\3'),
        (r'level(\d+)\.down\.(.+)', r'downsamples.\1.\2'),
        (r'out(\d)\.(\w+)', r'norm\1.\2'),
    ),
    linear=r'.*\.(in_proj|out_proj|fc1|fc2|reduction)\.weight')
