"""The report: one page with the requested jobs, their results and the evidence."""
