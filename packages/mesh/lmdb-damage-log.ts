import type { Counter, Logger, Metrics } from './observe.js';

/** A damaged row may be read every second for years: so many are remembered to be told once only. */
const MAX_REMEMBERED = 10_000;

/** Tells of damaged rows, each once: in the log by file, table and key, never with what stands in it, and in a counter. */
export class DamageLog {
  readonly #file: string;
  readonly #logger: Logger | undefined;
  readonly #rows: Counter<'table'>;
  readonly #told = new Set<string>();

  constructor(file: string, metrics: Metrics, logger: Logger | undefined) {
    this.#file = file;
    this.#logger = logger;
    this.#rows = metrics.counter({
      name: 'chatmesh_damaged_rows_total',
      help: 'Rows of embedded stores that were found damaged, by table: what stood in them is lost.',
      labelNames: ['table'],
    });
  }

  tell(table: string, key: string, page?: number): void {
    const row = `${table}/${key}`;
    if (this.#told.has(row)) return;
    if (this.#told.size < MAX_REMEMBERED) this.#told.add(row);
    this.#rows.inc({ table });
    this.#logger?.error({ file: this.#file, table, key, page }, 'a stored row is damaged: what stood in it is lost');
  }
}
