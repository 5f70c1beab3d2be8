/** The points of one chart: bucketed history from the server, extended by live readings. No DOM in here. */

/** A reading as something to draw, or null: numbers, and booleans as 0 and 1. */
export function asNumber(value) {
  return typeof value === "number" ? value : typeof value === "boolean" ? Number(value) : null;
}

/**
 * Buckets in ascending time, as columns: `times` (ms), `means`, `minima`, `maxima`, `counts`.
 *
 * A bucket stands at the time of its newest reading; buckets are counted from `startMs`, as the server counts them.
 * Bounded: a range of `rangeMs` in buckets of `bucketMs`, older ones are dropped as newer ones come.
 */
export class Series {
  constructor(rangeMs, bucketMs, startMs = 0, points = []) {
    this.rangeMs = rangeMs;
    this.bucketMs = bucketMs;
    this.startMs = startMs;
    this.times = points.map((point) => point[0]);
    this.means = points.map((point) => point[1]);
    this.minima = points.map((point) => point[2]);
    this.maxima = points.map((point) => point[3]);
    this.counts = points.map((point) => point[4]);
  }

  get length() {
    return this.times.length;
  }

  /** Takes a reading into its bucket. One that is older than what is shown is ignored. */
  add(ts, number) {
    const bucket = this.bucketOf(ts);
    let i = this.length - 1;
    while (i >= 0 && this.bucketOf(this.times[i]) > bucket) {
      i -= 1;
    }
    if (i >= 0 && this.bucketOf(this.times[i]) === bucket) {
      this.counts[i] += 1;
      this.means[i] += (number - this.means[i]) / this.counts[i];
      this.minima[i] = Math.min(this.minima[i], number);
      this.maxima[i] = Math.max(this.maxima[i], number);
    } else if (i >= 0 || this.length === 0 || ts >= this.times[0] - this.rangeMs) {
      this.insert(i + 1, ts, number);
    }
  }

  bucketOf(ts) {
    return Math.floor((ts - this.startMs) / this.bucketMs);
  }

  insert(at, ts, number) {
    this.times.splice(at, 0, ts);
    this.means.splice(at, 0, number);
    this.minima.splice(at, 0, number);
    this.maxima.splice(at, 0, number);
    this.counts.splice(at, 0, 1);
  }

  /** Drops what has left the range that ends at `now`. */
  trim(now) {
    const start = now - this.rangeMs - this.bucketMs;
    let old = 0;
    while (old < this.length && this.times[old] < start) {
      old += 1;
    }
    for (const column of [this.times, this.means, this.minima, this.maxima, this.counts]) {
      column.splice(0, old);
    }
  }

  /** Where the line is to be broken: pairs of times between which nothing came for much longer than is usual. */
  gaps() {
    if (this.length < 3) {
      return [];
    }
    const steps = this.times.slice(1).map((time, i) => time - this.times[i]);
    const usual = [...steps].sort((a, b) => a - b)[steps.length >> 1];
    const limit = Math.max(6 * usual, 3 * this.bucketMs);
    return steps.flatMap((step, i) => (step > limit ? [[this.times[i], this.times[i + 1]]] : []));
  }
}
