"""Write a recipe for a folder of one's own data."""
from mmvssd.new_recipe.command import new_recipe

__all__ = ['new_recipe']
