"""What a recipe's data hold and what is wrong with them, all at once."""
from mmvssd.reports.data.survey import DataReport, examine

__all__ = ['DataReport', 'examine']
