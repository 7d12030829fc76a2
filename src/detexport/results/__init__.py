"""The results of one job, as the stages wrote them, and the metrics that people compare."""
