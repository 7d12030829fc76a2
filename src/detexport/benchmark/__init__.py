"""Latency of the eager model and its artifacts, measured interleaved in one process."""

from detexport.benchmark.latency import measure_interleaved
from detexport.benchmark.machine import describe_machine
from detexport.benchmark.run import Candidate, LatencyReport, benchmark

__all__ = ["Candidate", "LatencyReport", "benchmark", "describe_machine", "measure_interleaved"]
