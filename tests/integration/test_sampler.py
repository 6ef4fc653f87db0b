"""The sampler that `make bench` gives the worker, in a Python of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import loadtest

pytestmark = pytest.mark.integration

SAMPLER = Path(loadtest.__file__).with_name("sampler")
BUSY = """
import time
def burn():
    end = time.process_time() + 1.2
    while time.process_time() < end:
        sum(range(1000))
burn()
"""


def run(path, *words):
    env = {**os.environ, "PYTHONPATH": str(SAMPLER), "LOADTEST_SAMPLES": str(path)}
    subprocess.run([sys.executable, "-P", "-c", BUSY, *words], env=env, check=True, timeout=30)


def test_a_worker_is_sampled_by_its_own_cpu_time(tmp_path):
    run(tmp_path / "samples", "gateway", "worker")
    rows = [line.split("\t") for line in (tmp_path / "samples").read_text().splitlines()]
    taken = sum(int(count) for _, count, _ in rows)
    assert 50 <= taken <= 150  # 1.2 s at 10 ms, written in fifties
    burnt = sum(int(count) for _, count, frames in rows if "<string>:burn" in frames)
    assert burnt > taken / 2  # the rest is Python's own start


def test_no_other_process_is_sampled(tmp_path):
    run(tmp_path / "samples", "gateway", "up")
    assert not (tmp_path / "samples").exists()
