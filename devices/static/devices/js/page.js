/** What every live page has: the mark of its updates, greying of stale values, ageing times, flashes, the way out. */

import { LiveStream } from "./live.js";
import { ageTimes, formatClock, formatDuration, formatName, formatSize, formatValue, learnServerTime, serverNow, setText } from "./format.js";

const REASONS = {
  "connection lost": "The connection to the gateway is lost. Trying to reconnect.",
  layer: "The gateway cannot reach its message layer. Readings are still being stored.",
};
const FLASH_MS = 900;
const FLASH_INTERVAL_MS = 5_000;

/** Opens the live stream that `root`'s data attributes name, and passes its messages to `onMessage`. */
export function openLivePage(root, onMessage) {
  const mark = document.getElementById("live-state");
  const banner = document.getElementById("stale-banner");
  let heardAt = serverNow();

  function showState({ state, why, transport }) {
    mark.dataset.state = state;
    mark.dataset.transport = transport ?? "";
    setText(mark.querySelector(".label"), state);
    mark.title = state === "live" ? `Live over ${transport === "events" ? "Server-Sent Events" : "WebSocket"}` : why;
    document.body.classList.toggle("stale", state === "stale");
    banner.hidden = state !== "stale";
    if (state === "stale") {
      const reason = REASONS[why] ?? why;
      setText(banner.querySelector(".why"), `Values are as of ${formatClock(heardAt)}. ${reason}`);
    }
  }

  const stream = new LiveStream({
    socketPath: root.dataset.socket,
    eventsPath: root.dataset.events,
    onState: showState,
    onAccessEnded: () => location.reload(),
    onMessage(message) {
      learnServerTime(message.now);
      if (message.type !== "stale" && stream.state === "live") {
        heardAt = message.now;
      }
      onMessage(message);
    },
  });
  stream.start();
  ageTimes();
  setInterval(() => document.hidden || ageTimes(), 1_000);
  document.addEventListener("visibilitychange", () => document.hidden || ageTimes());
  return stream;
}

/** The values of a device in a snapshot. A Map, because keys are foreign: "constructor" and "__proto__" are keys, too. */
export function valuesOf(device) {
  return new Map(Object.entries(device.values));
}

/** Writes a key or a name into an element, which may be too narrow for it. */
export function showName(element, name) {
  const text = formatName(name);
  if (setText(element, text)) {
    element.title = text;
  }
}

/** Writes a reading; returns whether another one was there. With `whole`, one that is cut leads there. */
export function showValue(cell, reading, whole = "") {
  const text = formatValue(reading);
  const first = cell.textContent === "";
  if (!setText(cell, text)) {
    return false;
  }
  if (whole === "") {
    cell.title = text; // it may be too wide for its place
  }
  cell.classList.toggle("text", typeof reading[1] !== "number");
  if (whole !== "") {
    showWhole(cell, reading[3], whole);
  }
  return !first;
}

function showWhole(cell, bytes, whole) {
  let link = cell.parentElement.querySelector(".whole");
  if (bytes === undefined) {
    link?.remove();
    return;
  }
  if (link === null) {
    link = document.createElement("a");
    link.className = "whole";
    link.href = whole;
    cell.after(" ", link);
  }
  setText(link, `all ${formatSize(bytes)}`);
}

/**
 * Short, faint highlights of what has changed: of a cell at most one in five seconds, and only where somebody sees it.
 *
 * A class that is set and taken away, not an animation: on 200 cells, one of them would always run, and each frame of
 * it repaints.
 */
export class Flashes {
  constructor() {
    this.lastAt = new WeakMap(); // element -> when it was highlighted
    this.seen = new WeakSet(); // rows in view
    this.lit = [];
    this.observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        this.seen[isIntersecting ? "add" : "delete"](target);
      }
    });
  }

  /** Looks from now on whether the row is in view. */
  watch(row) {
    this.observer.observe(row);
  }

  flash(row, element) {
    const now = performance.now();
    if (!this.seen.has(row) || now - (this.lastAt.get(element) ?? -Infinity) < FLASH_INTERVAL_MS) {
      return;
    }
    this.lastAt.set(element, now);
    element.classList.add("changed");
    if (this.lit.length === 0) {
      setTimeout(() => this.fade(), FLASH_MS);
    }
    this.lit.push(element);
  }

  fade() {
    for (const element of this.lit.splice(0)) {
      element.classList.remove("changed");
    }
  }
}

/** Shows whether the device is connected, in words as well as in colour. */
export function showConnected(badge, connected) {
  if (badge.dataset.connected !== String(connected)) {
    badge.dataset.connected = connected;
    setText(badge.querySelector(".label"), connected ? "Connected" : "Not connected");
  }
}

/** Shows that a device's clock is too far ahead: what it sends then is stored, and does not become the latest value. */
export function showClock(mark, skewMs) {
  mark.hidden = skewMs === null;
  setText(mark, skewMs === null ? "" : `Clock is ${formatDuration(skewMs)} ahead`);
}
