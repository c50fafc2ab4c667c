"""Folders and lists of images, as MMPreTrain's and MMSegmentation's data sets read them."""
from mmvssd.engine.data.listings.class_folders import check_class_folders
from mmvssd.engine.data.listings.class_lists import check_class_list, listed_images
from mmvssd.engine.data.listings.label_maps import check_folder, check_name_list

__all__ = ['check_class_folders', 'check_class_list', 'check_folder', 'check_name_list',
           'listed_images']
