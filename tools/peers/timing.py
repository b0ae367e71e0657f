"""The protocol of src/measure/timing.h: warm up (at least 2 runs, a fifth of the time), then run for `seconds`, at least 5 times."""
import statistics
import time


def median_ms(action, seconds):
    start, runs = time.perf_counter(), 0
    while runs < 2 or (time.perf_counter() - start < seconds / 5 and runs < 1000):
        action()
        runs += 1
    times, start = [], time.perf_counter()
    while time.perf_counter() - start < seconds or len(times) < 5:
        before = time.perf_counter()
        action()
        times.append((time.perf_counter() - before) * 1000)
    return statistics.median(times)
