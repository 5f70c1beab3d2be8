/** One live chart of one numeric key: the mean of each bucket as a line over the band from minimum to maximum. */

/* global uPlot */
import { formatMoment, formatName, formatRounded, serverNow, setText } from "./format.js";
import { Renderer } from "./render.js";
import { Series, asNumber } from "./series.js";

const HEIGHT = 220;
const dayTick = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
const minuteTick = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const secondTick = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const WAITING_LIMIT = 10_000; // readings held while the history is on its way

export class Chart {
  /** Builds the chart from the <template> in `template`; `historyPath` is the JSON view of the device's history. */
  constructor(template, historyPath, key) {
    this.historyPath = historyPath;
    this.key = key;
    this.element = template.content.firstElementChild.cloneNode(true);
    this.element.dataset.key = key;
    this.plotBox = this.element.querySelector(".plot");
    this.readout = this.element.querySelector(".readout");
    this.notice = this.element.querySelector(".notice");
    this.name = formatName(key);
    setText(this.element.querySelector(".chart-key"), this.name);
    this.readAt = null; // the time that somebody has moved to by keyboard
    this.plotBox.addEventListener("keydown", (event) => this.moveByKey(event));
    this.plotBox.addEventListener("blur", () => this.readTime(null));
    this.series = new Series(1, 1);
    this.waiting = [];
    this.renderer = new Renderer(() => this.draw(), 100);
    this.resizes = new ResizeObserver(() => this.resize());
    this.resizes.observe(this.plotBox);
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.onScheme = () => this.rebuild();
    this.scheme.addEventListener("change", this.onScheme);
  }

  /** Fetches the history of a range ("15m", "1h", ...) and draws it; a later call overtakes an earlier one. */
  async load(range) {
    this.request?.abort();
    const request = new AbortController();
    this.request = request;
    this.waiting = [];
    this.element.setAttribute("aria-busy", "true");
    const query = new URLSearchParams({ key: this.key, range });
    try {
      const response = await fetch(`${this.historyPath}?${query}`, { signal: request.signal });
      if (!response.ok) {
        throw new Error(`the gateway answered ${response.status}`);
      }
      this.show(await response.json());
      this.say("");
    } catch (error) {
      if (error.name !== "AbortError") {
        this.say(`No history: ${error.message}`);
        this.release(request);
      }
      return;
    }
    this.release(request);
  }

  release(request) {
    if (this.request === request) {
      this.request = null;
      this.element.removeAttribute("aria-busy");
    }
  }

  show(history) {
    this.series = new Series(history.end - history.start, history.bucket_ms, history.start, history.points);
    // Readings that came meanwhile may be in the history already: taking one twice changes at most one mean a little.
    for (const [ts, value] of this.waiting) {
      this.series.add(ts, value);
    }
    this.waiting = [];
    this.rebuild();
  }

  add(ts, value) {
    const number = asNumber(value);
    if (number === null) {
      return;
    }
    if (this.request) {
      this.waiting.push([ts, number]);
      if (this.waiting.length > WAITING_LIMIT) {
        this.waiting.shift();
      }
    } else {
      this.series.add(ts, number);
      this.renderer.request();
    }
  }

  /** Lets the window move on with time. */
  tick() {
    this.renderer.request();
  }

  remove() {
    this.request?.abort();
    this.resizes.disconnect();
    this.scheme.removeEventListener("change", this.onScheme);
    this.plot?.destroy();
    this.plot = null;
    this.element.remove();
  }

  say(text) {
    setText(this.notice, text);
    this.notice.hidden = text === "";
  }

  draw() {
    this.series.trim(this.end());
    if (this.plot) {
      this.plot.setData(this.columns(), false);
      this.plot.setScale("x", this.window());
      if (this.readAt !== null) {
        this.placeCursor();
      }
    }
    this.describe();
  }

  columns() {
    const { times, means, minima, maxima } = this.series;
    return [times.map((ms) => ms / 1_000), means, minima, maxima];
  }

  /** Now, or the newest reading of a device whose clock is ahead. */
  end() {
    return Math.max(serverNow(), this.series.times.at(-1) ?? 0);
  }

  window() {
    const end = this.end() / 1_000;
    return { min: end - this.series.rangeMs / 1_000, max: end };
  }

  rebuild() {
    this.plot?.destroy();
    this.plot = new uPlot(this.options(), this.columns(), this.plotBox);
    this.draw();
  }

  resize() {
    if (this.plot && this.plotBox.clientWidth > 0) {
      this.plot.setSize({ width: this.plotBox.clientWidth, height: HEIGHT });
    }
  }

  options() {
    const style = getComputedStyle(this.element);
    const color = (name) => style.getPropertyValue(name).trim();
    const axis = {
      stroke: color("--muted"),
      grid: { stroke: color("--grid"), width: 1 },
      ticks: { stroke: color("--grid"), width: 1, size: 4 },
      font: `12px ${style.fontFamily}`,
    };
    const edge = { stroke: "transparent", width: 0, points: { show: false } };
    const gaps = (plot) => this.series.gaps().map((pair) => pair.map((ms) => plot.valToPos(ms / 1_000, "x", true)));
    const paths = uPlot.paths.linear();
    return {
      width: Math.max(this.plotBox.clientWidth, 100),
      height: HEIGHT,
      padding: [12, 12, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
      scales: { x: { time: true, auto: false, range: (plot, min, max) => [min, max] }, y: { range: roomyRange } },
      axes: [
        { ...axis, space: 76, size: 30, values: (plot, ticks, index, space, step) => ticks.map((tick) => tickLabel(tick, step)) },
        { ...axis, size: yAxisSize, values: (plot, ticks) => ticks.map(formatRounded) },
      ],
      series: [
        {},
        { stroke: color("--line"), width: 2, paths, gaps, points: { show: this.series.length < 40, size: 5 } },
        { ...edge, paths, gaps },
        { ...edge, paths, gaps },
      ],
      bands: [{ series: [3, 2], fill: color("--band") }],
      hooks: { setCursor: [(plot) => this.readCursor(plot)] },
    };
  }

  /** Arrow keys go from bucket to bucket, Home and End to the first and the last, Escape back to the whole. */
  moveByKey(event) {
    const last = this.series.length - 1;
    const at = this.indexOfReadTime();
    const next = { ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1, Home: 0, End: last }[event.key];
    if (event.key === "Escape") {
      this.readTime(null);
    } else if (next !== undefined && last >= 0 && this.plot) {
      event.preventDefault();
      this.readTime(this.series.times[Math.min(last, Math.max(0, next))]);
    }
  }

  /** The bucket that is read out; beyond the last one, while none is. */
  indexOfReadTime() {
    const found = this.series.times.findIndex((time) => time >= this.readAt);
    return this.readAt === null || found < 0 ? this.series.length : found;
  }

  readTime(ms) {
    this.readAt = ms;
    this.placeCursor();
    this.describe();
  }

  placeCursor() {
    const left = this.readAt === null ? -10 : this.plot?.valToPos(this.readAt / 1_000, "x");
    this.plot?.setCursor({ left, top: HEIGHT / 3 });
  }

  readCursor(plot) {
    const i = plot.cursor.idx;
    this.cursor = plot.cursor.left >= 0 && i != null && i < this.series.length ? i : null;
    this.describe();
  }

  /** The line above the chart: the bucket under the pointer, or the whole range. It is also what a reader hears. */
  describe() {
    const { times, means, minima, maxima, counts } = this.series;
    if (this.series.length === 0) {
      setText(this.readout, "no readings in this range");
    } else if (this.cursor != null && this.cursor < this.series.length) {
      const i = this.cursor;
      const spread = counts[i] > 1 ? ` (${formatRounded(minima[i])} to ${formatRounded(maxima[i])})` : "";
      setText(this.readout, `${formatRounded(means[i])}${spread} · ${formatMoment(times[i])}`);
    } else {
      const [low, high] = extent(minima, maxima);
      setText(this.readout, `min ${formatRounded(low)} · max ${formatRounded(high)}`);
    }
    this.plotBox.setAttribute("aria-label", `Chart of ${this.name}`);
    this.plotBox.setAttribute("aria-valuetext", this.readout.textContent);
    this.plotBox.setAttribute("aria-valuemax", String(this.series.length));
    this.plotBox.setAttribute("aria-valuenow", String((this.cursor ?? -1) + 1));
  }
}

function extent(minima, maxima) {
  let [low, high] = [Infinity, -Infinity];
  for (let i = 0; i < minima.length; i += 1) {
    low = Math.min(low, minima[i]);
    high = Math.max(high, maxima[i]);
  }
  return [low, high];
}

/** The y range with a margin of a tenth; a flat line gets room on both sides. */
function roomyRange(plot, low, high) {
  if (low == null || high == null) {
    return [0, 1];
  }
  const margin = (high - low) * 0.1 || Math.abs(high) * 0.1 || 1;
  return [low - margin, high + margin];
}

/** The time of a tick as the browser's language has it; the day where ticks are days, and at midnight. */
function tickLabel(seconds, step) {
  const moment = new Date(seconds * 1_000);
  const midnight = moment.getHours() === 0 && moment.getMinutes() === 0 && moment.getSeconds() === 0;
  return (midnight || step >= 86_400 ? dayTick : step < 60 ? secondTick : minuteTick).format(moment);
}

function yAxisSize(plot, labels) {
  const longest = Math.max(2, ...(labels ?? []).map((label) => label.length));
  return 16 + longest * 7;
}
