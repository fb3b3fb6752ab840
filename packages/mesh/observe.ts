import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { getHeapStatistics } from 'node:v8';
import { type DestinationStream, type Logger, pino, stdTimeFunctions } from 'pino';
import {
  Counter,
  collectDefaultMetrics,
  Gauge,
  type LabelValues,
  type Metric,
  type MetricConfiguration,
  Registry,
} from 'prom-client';
import { MeshError, PortInUseError } from './errors.js';
import { Histogram } from './histogram.js';

export type { Logger } from 'pino';
export type { Counter, Gauge } from 'prom-client';
export type { Histogram, Series } from './histogram.js';

/**
 * A logger that writes one JSON object a line, to stdout unless told otherwise. `name` says which part speaks.
 *
 * @throws MeshError `invalid_argument` for a level that does not exist.
 */
export function createLogger(options: { name: string; level?: string; destination?: DestinationStream }): Logger {
  const { name, level = 'info', destination } = options;
  const levels = [...Object.keys(pino.levels.values), 'silent'];
  if (!levels.includes(level)) {
    throw new MeshError('invalid_argument', `unknown log level "${level}"; there are ${levels.join(', ')}`);
  }
  const settings = {
    name,
    level,
    timestamp: stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
  };
  return destination ? pino(settings, destination) : pino(settings);
}

interface MetricOptions<L extends string> {
  readonly name: string;
  readonly help: string;
  readonly labelNames?: readonly L[];
}

/** What a metric is at the moment: one value, or one for each combination of labels. */
type Values<L extends string> = number | Iterable<readonly [Record<L, string>, number]>;
export type Collected<L extends string> = Values<L> | Promise<Values<L>>;

/**
 * The metrics of one process. Asking for a name again gives the same metric, so that services that share a process share
 * one instance of this.
 */
export class Metrics {
  readonly registry = new Registry();

  /** `processMetrics` (on by default): memory, heap, garbage collection, event loop delay, CPU. */
  constructor({ processMetrics = true }: { processMetrics?: boolean } = {}) {
    if (!processMetrics) return;
    collectDefaultMetrics({ register: this.registry });
    const limit = { name: 'chatmesh_heap_limit_bytes', help: 'What the heap may grow to before the process ends.' };
    this.gauge(limit, () => getHeapStatistics().heap_size_limit);
  }

  /** With `collect`, what has been counted is asked for when the metrics are read; the last one given for a name counts. */
  counter<L extends string = never>(options: MetricOptions<L>, collect?: () => Collected<L>): Counter<L> {
    if (!collect) return this.#get(options.name, () => new Counter<L>({ ...options, registers: [this.registry] }));
    return this.#collected(Counter<L>, options, (counter, labels, value) => counter.inc(labels, value), collect);
  }

  /** With `collect`, the value is asked for when the metrics are read; the last one given for a name counts. */
  gauge<L extends string = never>(options: MetricOptions<L>, collect?: () => Collected<L>): Gauge<L> {
    if (!collect) return this.#get(options.name, () => new Gauge<L>({ ...options, registers: [this.registry] }));
    return this.#collected(Gauge<L>, options, (gauge, labels, value) => gauge.set(labels, value), collect);
  }

  /** `buckets` are upper bounds in the metric's unit, rising. */
  histogram<L extends string = never>(options: MetricOptions<L> & { readonly buckets: number[] }): Histogram<L> {
    return this.#get(options.name, () => {
      const histogram = new Histogram<L>(options);
      this.registry.registerMetric(histogram as unknown as Metric);
      return histogram;
    });
  }

  /** Everything in Prometheus' text format. */
  text(): Promise<string> {
    return this.registry.metrics();
  }

  #collected<L extends string, M extends Counter<L> | Gauge<L>>(
    Kind: new (options: MetricConfiguration<L>) => M,
    options: MetricOptions<L>,
    put: (metric: M, labels: LabelValues<L>, value: number) => void,
    collect: () => Collected<L>,
  ): M {
    this.registry.removeSingleMetric(options.name);
    return new Kind({
      ...options,
      registers: [this.registry],
      async collect() {
        const metric = this as unknown as M;
        const values = await collect();
        metric.reset();
        if (typeof values === 'number') put(metric, {}, values);
        else for (const [labels, value] of values) put(metric, labels as LabelValues<L>, value);
      },
    });
  }

  #get<M>(name: string, make: () => M): M {
    return (this.registry.getSingleMetric(name) as M | undefined) ?? make();
  }
}

/**
 * The operators' HTTP port of one process: `/metrics`, `/livez` (the event loop turns) and `/readyz` (503 with the
 * failing checks by name until every one passes).
 */
export class AdminServer {
  readonly #metrics: Metrics;
  readonly #logger: Logger;
  readonly #variable: string;
  readonly #pid: number;
  readonly #checks = new Map<string, () => boolean | string>();
  #server: Server | undefined;

  /** `variable` is the environment variable to name when the port is taken; `/readyz` says the process id `pid`. */
  constructor(options: { metrics: Metrics; logger: Logger; variable: string; pid: number }) {
    this.#metrics = options.metrics;
    this.#logger = options.logger;
    this.#variable = options.variable;
    this.#pid = options.pid;
    const ready = {
      name: 'chatmesh_ready',
      help: '1 for each check of readiness that passes, 0 for one that does not.',
    };
    this.#metrics.gauge({ ...ready, labelNames: ['check'] }, () => {
      const failing = this.#failing();
      return [...this.#checks.keys()].map((check) => [{ check }, check in failing ? 0 : 1] as const);
    });
  }

  /** The port listened on; 0 when there is none. */
  get port(): number {
    return (this.#server?.address() as AddressInfo | null | undefined)?.port ?? 0;
  }

  /** A condition of readiness: true is ready; false, or the reason as text, is not. */
  addCheck(name: string, check: () => boolean | string): void {
    this.#checks.set(name, check);
  }

  /**
   * Listens; port 0 takes a free one. Resolves to the port.
   *
   * @throws PortInUseError
   */
  async listen(port: number, host: string): Promise<number> {
    const server = createServer((request, response) => {
      this.#answer(request.method ?? '', request.url ?? '', response).catch((error) => {
        this.#logger.error({ err: error }, 'an admin request failed');
        response.destroy();
      });
    });
    await new Promise<void>((resolve, reject) => {
      server.once('error', (error: NodeJS.ErrnoException) => {
        reject(error.code === 'EADDRINUSE' ? new PortInUseError(this.#variable, port, error) : error);
      });
      server.listen(port, host, resolve);
    });
    this.#server = server;
    return this.port;
  }

  async close(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    if (!server) return;
    await new Promise<void>((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
  }

  async #answer(method: string, url: string, response: ServerResponse): Promise<void> {
    if (method !== 'GET' && method !== 'HEAD') {
      response.writeHead(405, { allow: 'GET, HEAD' }).end();
      return;
    }
    const path = url.split('?', 1)[0];
    if (path === '/metrics') {
      const text = await this.#metrics.text();
      response.writeHead(200, { 'content-type': this.#metrics.registry.contentType }).end(text);
    } else if (path === '/livez') {
      json(response, 200, { status: 'live' });
    } else if (path === '/readyz') {
      const failing = this.#failing();
      const ready = Object.keys(failing).length === 0;
      const pid = this.#pid;
      json(response, ready ? 200 : 503, ready ? { status: 'ready', pid } : { status: 'not ready', pid, failing });
    } else {
      json(response, 404, { error: { code: 'not_found', message: 'there are /metrics, /livez and /readyz' } });
    }
  }

  /** Reason by name of the check. */
  #failing(): Record<string, string> {
    const failing: Record<string, string> = {};
    for (const [name, check] of this.#checks) {
      let result: boolean | string;
      try {
        result = check();
      } catch (error) {
        this.#logger.error({ err: error, check: name }, 'a readiness check failed to run');
        result = 'the check failed to run';
      }
      if (result !== true) failing[name] = result || 'not ready';
    }
    return failing;
  }
}

function json(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(`${JSON.stringify(body)}\n`);
}
