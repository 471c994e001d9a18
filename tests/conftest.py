import sys
from pathlib import Path

FOLDERS = ("common/tests", "common", "continuous_finetuning", "benchmarks")
sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in FOLDERS]
