/** What every live page has: the connection mark, greying of stale values, ageing times, flashes, the way out. */

import { LiveStream } from "./live.js";
import { ageTimes, formatClock, learnServerTime, serverNow, setText } from "./format.js";

const LABELS = { connecting: "Connecting", live: "Live", reconnecting: "Reconnecting", stale: "Stale" };
const REASONS = {
  "connection lost": "The connection to the gateway is lost. Trying to reconnect.",
  layer: "The gateway cannot reach its message layer. Readings are still being stored.",
};
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

/** Opens the live stream that `root`'s data attributes name, and passes its messages to `onMessage`. */
export function openLivePage(root, onMessage) {
  const mark = document.getElementById("live-state");
  const banner = document.getElementById("stale-banner");
  let heardAt = serverNow();

  function showState({ state, why, transport }) {
    mark.dataset.state = state;
    mark.dataset.transport = transport ?? "";
    setText(mark.querySelector(".label"), LABELS[state]);
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

/** A short, faint highlight of what has changed. */
export function flash(element) {
  if (!reducedMotion.matches) {
    const color = getComputedStyle(element).getPropertyValue("--flash");
    element.animate([{ backgroundColor: color }, { backgroundColor: "transparent" }], { duration: 900 });
  }
}

/** Shows whether the device is connected, in words as well as in colour. */
export function showConnected(badge, connected) {
  if (badge.dataset.connected !== String(connected)) {
    badge.dataset.connected = connected;
    setText(badge.querySelector(".label"), connected ? "Connected" : "Not connected");
  }
}
