"""Tells in Markdown what scripts/bench/repo.sh has measured."""

import statistics
from dataclasses import dataclass, field

import cases
from cases import AGAIN, DISK, FIRST, MEMORY
from measuring import ratios, spread

# A table's figures are against those of these tools.
BASES = {FIRST: ["restic"], AGAIN: ["restic"], DISK: ["restic", "cp"], MEMORY: ["restic", "cp"]}
# The largest ratios that we want of our time, and to whose.
LIMITS = [(FIRST, "restic", 0.5), (AGAIN, "restic", 0.5), (DISK, "cp", 1.1), (MEMORY, "restic", 0.6)]
MEMORY_LIMIT_BYTES = 300 * 10**6
OURS = "stapes"


@dataclass
class Results:
    """By operation and tool, a value for every round."""

    samples: dict = field(default_factory=lambda: {operation: {} for operation in cases.TITLES})
    stored: dict = field(default_factory=lambda: {FIRST: {}, AGAIN: {}})  # bytes that came into the repository

    def add(self, operation, name, sample, stored_bytes=0):
        self.samples[operation].setdefault(name, []).append(sample)
        if operation in self.stored:
            self.stored[operation].setdefault(name, []).append(stored_bytes)


def tables(results):
    return "\n".join(table(results, operation) for operation in cases.TITLES if results.samples[operation])


def table(results, operation):
    samples = results.samples[operation]
    bases = [name for name in BASES[operation] if name in samples]
    heads = [cases.TITLES[operation], "time", *(f"against {name}" for name in bases), "of it, sync"]
    heads += ["own processor", "all processors", "own memory"]
    heads += ["repository" if operation == FIRST else "added"] if operation in results.stored else []
    lines = [heads, ["---"] * len(heads)]
    for name, runs in samples.items():
        # A bar would end the cell.
        shown = cases.text_of(name, operation).replace("|", "\\|")
        cells = [f"`{shown}`", spread([run.seconds for run in runs], " s")]
        cells += [spread(ratios(runs, samples[base])) if base != name else "1" for base in bases]
        for values in zip(*((run.sync_seconds, run.own_seconds, run.busy_seconds) for run in runs)):
            cells.append(f"{statistics.median(values):.2f} s")
        cells.append(f"{max(run.peak_bytes for run in runs) / 1e6:.0f} MB")
        if operation in results.stored:
            stored = statistics.median(results.stored[operation][name])
            cells.append(f"{stored / 1e6:.1f} MB" if operation == FIRST else f"{stored / 1e3:.1f} kB")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def expectations(results):
    """What we want and what we found; empty where ours was not measured."""
    rows = [row for operation, base, limit in LIMITS for row in time_row(results, operation, base, limit)]
    rows += size_row(results) + memory_row(results)
    return "\n".join(["| Expected | Found |", "|---|---|", *rows]) + "\n" if rows else ""


def verdict(met, found):
    return f"met: {found}" if met else f"**missed**: {found}"


def time_row(results, operation, base, limit):
    samples = results.samples[operation]
    if OURS in samples and base in samples:
        found = ratios(samples[OURS], samples[base])
        text = f"{cases.TITLES[operation]}: at most {limit} times what {base} needs"
        yield f"| {text} | {verdict(statistics.median(found) <= limit, spread(found))} |"


def size_row(results):
    stored = results.stored[FIRST]
    if OURS not in stored or "restic" not in stored:
        return []
    ours, theirs = (statistics.median(stored[name]) for name in (OURS, "restic"))
    return [f"| Repository no larger than restic's | {verdict(ours <= theirs, f'{ours / theirs:.3f} times as large')} |"]


def memory_row(results):
    peaks = [run.peak_bytes for samples in results.samples.values() for run in samples.get(OURS, [])]
    if not peaks:
        return []
    met = max(peaks) < MEMORY_LIMIT_BYTES
    return [f"| Memory below {MEMORY_LIMIT_BYTES // 10**6} MB | {verdict(met, f'{max(peaks) / 1e6:.0f} MB at most')} |"]
