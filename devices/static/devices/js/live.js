/**
 * The live stream of a page: WebSocket first, Server-Sent Events as the second way.
 *
 * Invariants:
 * - every connection begins with a snapshot from the server, so nothing has to be remembered across a loss;
 * - at most one transport is open and at most one retry is pending;
 * - the state is "live" only while messages come: a silent connection is a lost one, whatever the socket says;
 * - retries back off exponentially up to a bound, with jitter, and start again at once when the network or the tab
 *   comes back.
 */

const OPEN_TIMEOUT_MS = 5_000; // for a proxy that swallows the upgrade and never answers
const SILENCE_LIMIT_MS = 12_000; // the server sends a heartbeat every 5 s
const STALE_AFTER_MS = 2_000; // shorter interruptions are shown as "reconnecting", without greying the values
const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 15_000;
const ACCESS_ENDED = 4403;

/** How long to wait before retry `attempt` (0, 1, ...): exponential, bounded, with half of it left to chance. */
export function retryDelay(attempt, random = Math.random) {
  const whole = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** attempt);
  return whole / 2 + (random() * whole) / 2;
}

/** Opens a WebSocket; calls back with ("open"), ("message", text) and, once, ("end", {refused, accessEnded}). */
function openWebSocket(url, report) {
  const socket = new WebSocket(url);
  let opened = false;
  socket.onopen = () => {
    opened = true;
    report("open");
  };
  socket.onmessage = (event) => report("message", event.data);
  socket.onclose = (event) => report("end", { refused: !opened, accessEnded: event.code === ACCESS_ENDED });
  return () => {
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  };
}

/** The same for an EventSource. It is closed on its first error, because the retries are ours. */
function openEventSource(url, report) {
  const source = new EventSource(url);
  let opened = false;
  source.onopen = () => {
    opened = true;
    report("open");
  };
  source.onmessage = (event) => report("message", event.data);
  source.onerror = () => {
    source.close();
    report("end", { refused: !opened, accessEnded: false });
  };
  return () => {
    source.onopen = source.onmessage = source.onerror = null;
    source.close();
  };
}

export class LiveStream {
  /**
   * `socketPath` and `eventsPath` are the two ways to the same stream. `onMessage(message)` gets each parsed message;
   * `onState({state, why, transport})` gets "connecting", "live", "reconnecting" or "stale" whenever it changes;
   * `onAccessEnded()` is called when this user may no longer watch.
   */
  constructor({ socketPath, eventsPath, onMessage, onState, onAccessEnded }) {
    this.socketPath = socketPath;
    this.eventsPath = eventsPath;
    this.onMessage = onMessage;
    this.onState = onState;
    this.onAccessEnded = onAccessEnded;
    this.state = "";
    this.why = "";
    this.attempt = 0;
    this.close = null;
    this.retryTimer = 0;
    this.staleTimer = 0;
    this.silenceTimer = 0;
    addEventListener("online", () => this.retryNow());
    addEventListener("pagehide", () => this.stop());
    addEventListener("pageshow", (event) => event.persisted && this.start());
    document.addEventListener("visibilitychange", () => document.hidden || this.retryNow());
  }

  start() {
    this.stopped = false;
    this.setState("connecting", "");
    this.connect("websocket");
  }

  stop() {
    this.stopped = true;
    clearTimeout(this.retryTimer);
    clearTimeout(this.staleTimer);
    this.disconnect();
  }

  /** Skips what is left of the waiting time, if it is waiting. */
  retryNow() {
    if (this.close === null && !this.stopped) {
      clearTimeout(this.retryTimer);
      this.connect("websocket");
    }
  }

  connect(transport) {
    this.transport = transport;
    this.watchSilence(OPEN_TIMEOUT_MS);
    const report = (kind, detail) => this.handle(kind, detail);
    const origin = location.origin.replace(/^http/, "ws");
    this.close =
      transport === "websocket"
        ? openWebSocket(origin + this.socketPath, report)
        : openEventSource(this.eventsPath, report);
  }

  disconnect() {
    clearTimeout(this.silenceTimer);
    this.close?.();
    this.close = null;
  }

  handle(kind, detail) {
    if (kind === "open") {
      this.watchSilence(SILENCE_LIMIT_MS);
    } else if (kind === "message") {
      this.watchSilence(SILENCE_LIMIT_MS);
      this.take(JSON.parse(detail));
    } else {
      this.lost(detail);
    }
  }

  take(message) {
    if (message.type === "snapshot") {
      this.attempt = 0;
      clearTimeout(this.staleTimer);
      this.staleTimer = 0;
      this.setState("live", "");
    } else if (message.type === "stale") {
      this.setState("stale", message.why);
    } else if (message.type === "denied") {
      this.stop();
      this.onAccessEnded();
      return;
    }
    this.onMessage(message);
  }

  lost({ refused, accessEnded }) {
    this.disconnect();
    if (accessEnded) {
      this.stop();
      this.onAccessEnded();
      return;
    }
    this.interrupted();
    if (refused && this.transport === "websocket") {
      this.connect("events");
      return;
    }
    this.retryTimer = setTimeout(() => this.connect("websocket"), retryDelay(this.attempt));
    this.attempt += 1;
    if (refused) {
      this.checkAccess();
    }
  }

  /** A handshake does not tell a browser why it was refused: an expired session shows as a redirect of the page, a device
   * that has been deleted as 404. */
  async checkAccess() {
    try {
      const response = await fetch(location.href, { method: "HEAD", redirect: "manual", cache: "no-store" });
      if ((response.type === "opaqueredirect" || [403, 404].includes(response.status)) && !this.stopped) {
        this.stop();
        this.onAccessEnded();
      }
    } catch {
      // The server is away: the retries go on.
    }
  }

  interrupted() {
    if (this.state === "stale") {
      return;
    }
    this.setState(this.state === "connecting" ? "connecting" : "reconnecting", "connection lost");
    this.staleTimer ||= setTimeout(() => this.setState("stale", "connection lost"), STALE_AFTER_MS);
  }

  watchSilence(limit) {
    clearTimeout(this.silenceTimer);
    const refused = limit === OPEN_TIMEOUT_MS;
    this.silenceTimer = setTimeout(() => this.lost({ refused, accessEnded: false }), limit);
  }

  setState(state, why) {
    if (state !== this.state || why !== this.why) {
      this.state = state;
      this.why = why;
      this.onState({ state, why, transport: this.transport });
    }
  }
}
