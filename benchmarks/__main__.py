"""`python -m benchmarks [PART ...] [--quick]`: runs the parts, prints them, keeps them as JSON."""

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping

from benchmarks import (
    bombs,
    commands,
    conversation,
    files,
    first_delta,
    latency,
    memory,
    money,
    report,
    schedules,
    sdk,
    start,
    streaming,
    throughput,
)
from benchmarks.report import Part
from benchmarks.stage import Stage

PARTS: Mapping[str, Callable[[Stage], Part]] = {
    "latency": latency.run,
    "throughput": throughput.run,
    "streaming": streaming.run,
    "first_delta": first_delta.run,
    "conversation": conversation.run,
    "commands": commands.run,
    "bombs": bombs.run,
    "files": files.run,
    "money": money.run,
    "memory": memory.run,
    "schedules": schedules.run,
    "start": start.run,
    "sdk": sdk.run,
}


def main() -> None:
    """Run what the command line names, or everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="about a minute; noisier")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    with Stage(options.quick) as stage:
        parts = [_run(name, stage) for name in PARTS if name in (options.parts or PARTS)]
    print(report.summary(parts))
    print(f"\nWritten to {report.write_json(parts)}")
    if failed := [part.name for part in parts if part.failure]:
        sys.exit(f"Failed: {', '.join(failed)}")


def _run(name: str, stage: Stage) -> Part:
    """One part. If it fails, that is its result, and the others are run all the same."""
    began, load_before = time.monotonic(), os.getloadavg()[0]
    try:
        part = PARTS[name](stage)
    except Exception as error:
        traceback.print_exc()
        part = Part(name, "failed", failure=f"{type(error).__name__}: {error}")
    part.took_s = time.monotonic() - began
    part.load_average = (load_before, os.getloadavg()[0])
    print(part.markdown(), end="\n\n", flush=True)
    return part


if __name__ == "__main__":
    main()
