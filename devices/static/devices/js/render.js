/** Coalesces renderings: however often data comes, `draw` runs at most once per `intervalMs`, and never while hidden. */

export class Renderer {
  constructor(draw, intervalMs) {
    this.draw = draw;
    this.intervalMs = intervalMs;
    this.last = -Infinity;
    this.pending = false;
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && this.missed) {
        this.missed = false;
        this.request();
      }
    });
  }

  /** Asks for a rendering soon. Cheap enough to be called for each message. */
  request() {
    if (document.hidden) {
      this.missed = true;
    } else if (!this.pending) {
      this.pending = true;
      const wait = Math.max(0, this.last + this.intervalMs - performance.now());
      setTimeout(() => requestAnimationFrame(() => this.run()), wait);
    }
  }

  run() {
    this.pending = false;
    this.last = performance.now();
    this.draw();
  }
}
