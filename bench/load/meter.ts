import { createHistogram, type RecordableHistogram } from 'node:perf_hooks';
import type { Latency } from '../jobs.js';

/** Latencies to three significant figures, from 1 microsecond to an hour. */
class LatencyHistogram {
  readonly #microseconds: RecordableHistogram = createHistogram({ lowest: 1, highest: 3_600_000_000, figures: 3 });

  record(milliseconds: number): void {
    this.#microseconds.record(Math.max(1, Math.round(milliseconds * 1000)));
  }

  reset(): void {
    this.#microseconds.reset();
  }

  summary(): Latency {
    const at = (percentile: number) => this.#microseconds.percentile(percentile) / 1000;
    return { p50: at(50), p90: at(90), p99: at(99), p999: at(99.9), max: this.#microseconds.max / 1000 };
  }
}

/** What is counted between `reset()` and now. */
export class Meter {
  accepted = 0;
  delivered = 0;
  copies = 0;
  receipts = 0;
  readonly sent = new LatencyHistogram();
  readonly message = new LatencyHistogram();
  readonly receipt = new LatencyHistogram();

  reset(): void {
    this.accepted = this.delivered = this.copies = this.receipts = 0;
    this.sent.reset();
    this.message.reset();
    this.receipt.reset();
  }
}
