"""Latency: the eager model and its artifacts, measured side by side in one process on one machine."""

from detexport.benchmark.latency import measure_interleaved
from detexport.benchmark.machine import describe_machine
from detexport.benchmark.run import Candidate, LatencyReport, benchmark

__all__ = ["Candidate", "LatencyReport", "benchmark", "describe_machine", "measure_interleaved"]
