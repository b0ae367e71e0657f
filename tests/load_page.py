"""The page of figures that tests/load.py --html writes: one file without references to others."""
import html


def at(samples, seconds):
    """The sample at that time."""
    return min(samples, key=lambda sample: abs(sample["seconds"] - seconds))


def curve(samples, key, name, unit):
    """One quantity over time, from 0 up, as an SVG of 900 x 220."""
    width, height, left, bottom = 900, 220, 60, 30
    longest = max(samples[-1]["seconds"], 1e-9)
    most = max(sample[key] for sample in samples) * 1.1 or 1
    def place(seconds, value):
        return f"{left + (width - left - 10) * seconds / longest:.1f},{height - bottom - (height - bottom - 10) * value / most:.1f}"
    points = " ".join(place(sample["seconds"], sample[key]) for sample in samples)
    grid = ""
    for i in range(5):
        y = float(place(0, most * i / 4).split(",")[1])
        x = float(place(longest * i / 4, 0).split(",")[0])
        grid += f'<path d="M{left} {y:.1f}H{width - 10}" stroke="#ddd"/><text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{most * i / 4:.0f}</text>'
        grid += f'<text x="{x:.1f}" y="{height - 10}" text-anchor="middle">{longest * i / 4 / 60:.1f} min</text>'
    return (f'<h2>{html.escape(name)} ({html.escape(unit)})</h2><svg viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">{grid}'
            f'<polyline points="{points}" fill="none" stroke="#06c" stroke-width="2"/></svg>')


def table(head, rows):
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"


def page(result):
    samples = result["samples"]
    marks = [share * result["seconds"] for share in (0, 1 / 12, 1 / 4, 1 / 2, 3 / 4, 1)]
    memory = table(["after"] + [f"{mark / 60:.1f} min" for mark in marks], [["MB"] + [f"{at(samples, mark)['memory_mb']:.1f}" for mark in marks],
                                                                           ["open files"] + [at(samples, mark)["open_files"] for mark in marks]])
    kinds = table(["kind", "answers", "by status", "first byte p50 ms", "p99", "whole p50 ms", "p99"],
                  [[k["kind"], k["answers"], ", ".join(f"{status}: {count}" for status, count in k["statuses"].items()), f"{k['first_p50_ms']:.1f}",
                    f"{k['first_p99_ms']:.1f}", f"{k['whole_p50_ms']:.1f}", f"{k['whole_p99_ms']:.1f}"] for k in result["kinds"]])
    failures = table(["failure", "times"], result["failures"].items()) if result["failures"] else "<p>No failure.</p>"
    return ("<!doctype html><meta charset=utf-8><title>Load on the service</title><style>body{font-family:sans-serif;max-width:60em;margin:2em auto}"
            "td,th{padding:.2em .8em;text-align:right}td:first-child{text-align:left}svg{width:100%}</style><h1>Mixed load on the service</h1>"
            f"<p>{result['answers']} answers in {result['seconds'] / 60:.1f} minutes, {result['answers_per_s']:.1f} a second, "
            f"{result['tokens_per_s']:.0f} tokens a second.</p>{memory}{curve(samples, 'memory_mb', 'Memory of the service', 'MB')}"
            f"{curve(samples, 'open_files', 'Open files', 'number')}<h2>Answers</h2>{kinds}<h2>Failures</h2>{failures}\n")
