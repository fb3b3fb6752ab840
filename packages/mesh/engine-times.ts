import type { Series } from './histogram.js';
import type { Metrics } from './observe.js';

export type EngineName = 'cassandra' | 'redis' | 'pulsar' | 'postgresql' | 'lmdb' | 'pglite';

const BUCKETS_S = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5];

/** How long one kind of request to an engine takes, and how often it fails. */
export class EngineOperation {
  readonly #succeeded: Series;
  readonly #failed: Series;

  constructor(succeeded: Series, failed: Series) {
    this.#succeeded = succeeded;
    this.#failed = failed;
  }

  /** A request has ended; `startedAtMs` by performance.now(). */
  ended(startedAtMs: number, ok: boolean): void {
    (ok ? this.#succeeded : this.#failed).observe((performance.now() - startedAtMs) / 1000);
  }

  /** Runs a request. */
  async time<T>(request: () => Promise<T>): Promise<T> {
    const startedAtMs = performance.now();
    let ok = false;
    try {
      const answer = await request();
      ok = true;
      return answer;
    } finally {
      this.ended(startedAtMs, ok);
    }
  }
}

/** The operation of an engine, as `chatmesh_engine_seconds{engine,operation,outcome}`. To be asked for once and kept. */
export function engineOperation(metrics: Metrics, engine: EngineName, operation: string): EngineOperation {
  const seconds = metrics.histogram({
    name: 'chatmesh_engine_seconds',
    help: 'From a request to an engine to its answer, or to its failure; waiting for a place among the requests counts.',
    labelNames: ['engine', 'operation', 'outcome'],
    buckets: BUCKETS_S,
  });
  const series = (outcome: string) => seconds.labels({ engine, operation, outcome });
  return new EngineOperation(series('ok'), series('failed'));
}
