"""Reports: tables, figures and one HTML page, all made from a run directory and from nothing else."""

from fedrec.report.gallery import write_figures
from fedrec.report.page import write_report
from fedrec.report.tables import attack_summaries, comparison_table, summary_table

__all__ = ["attack_summaries", "comparison_table", "summary_table", "write_figures", "write_report"]
