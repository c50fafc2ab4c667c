"""A survey of whole data sets before a run: faults stop it, doubts are warned of, all at once."""
from mmvssd.engine.data.data_survey.hook import DataSurveyHook

__all__ = ['DataSurveyHook']
