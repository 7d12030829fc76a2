"""The report's budget of conf/report."""

from detexport.conf_files import read_defaults
from detexport.report.recommend import Budget

BUDGET = Budget(**read_defaults("report/default")["budget"])
