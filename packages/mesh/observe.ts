import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type DestinationStream, type Logger, pino, stdTimeFunctions } from 'pino';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import { MeshError, PortInUseError } from './errors.js';

export type { Logger } from 'pino';
export type { Counter, Gauge, Histogram } from 'prom-client';

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

/**
 * The metrics of one process. Asking for a name again gives the same metric, so that services that share a process share
 * one instance of this.
 */
export class Metrics {
  readonly registry = new Registry();

  /** `processMetrics` (on by default): memory, heap, garbage collection, event loop delay, CPU. */
  constructor({ processMetrics = true }: { processMetrics?: boolean } = {}) {
    if (processMetrics) collectDefaultMetrics({ register: this.registry });
  }

  counter<L extends string = never>(options: MetricOptions<L>): Counter<L> {
    return this.#get(options.name, () => new Counter<L>({ ...options, registers: [this.registry] }));
  }

  /** With `collect`, the value is asked for when the metrics are read; the last one given for a name counts. */
  gauge<L extends string = never>(options: MetricOptions<L>, collect?: () => number): Gauge<L> {
    if (!collect) return this.#get(options.name, () => new Gauge<L>({ ...options, registers: [this.registry] }));
    this.registry.removeSingleMetric(options.name);
    return new Gauge<L>({
      ...options,
      registers: [this.registry],
      collect() {
        this.set(collect());
      },
    });
  }

  /** `buckets` are upper bounds in the metric's unit, rising. */
  histogram<L extends string = never>(options: MetricOptions<L> & { readonly buckets: number[] }): Histogram<L> {
    return this.#get(options.name, () => new Histogram<L>({ ...options, registers: [this.registry] }));
  }

  /** Everything in Prometheus' text format. */
  text(): Promise<string> {
    return this.registry.metrics();
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
  readonly #checks = new Map<string, () => boolean | string>();
  #server: Server | undefined;

  /** `variable` is the environment variable to name when the port is taken. */
  constructor(options: { metrics: Metrics; logger: Logger; variable: string }) {
    this.#metrics = options.metrics;
    this.#logger = options.logger;
    this.#variable = options.variable;
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
      json(response, ready ? 200 : 503, ready ? { status: 'ready' } : { status: 'not ready', failing });
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
