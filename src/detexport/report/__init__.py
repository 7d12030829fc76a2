"""The report: one page that shows what was asked for, what came out of it, and the evidence."""
