import { MeshError } from '../errors.js';
import { field, serviceOf } from './descriptors.js';
import type { CallContext } from './types.js';

/** The published contract of grpc.health.v1. */
export const HealthService = serviceOf({
  name: 'grpc/health/v1/health.proto',
  package: 'grpc.health.v1',
  messageType: [
    { name: 'HealthCheckRequest', field: [field('service', 1, 'string')] },
    {
      name: 'HealthCheckResponse',
      field: [field('status', 1, '.grpc.health.v1.HealthCheckResponse.ServingStatus', { isEnum: true })],
      enumType: [
        {
          name: 'ServingStatus',
          value: [
            { name: 'UNKNOWN', number: 0 },
            { name: 'SERVING', number: 1 },
            { name: 'NOT_SERVING', number: 2 },
            { name: 'SERVICE_UNKNOWN', number: 3 },
          ],
        },
      ],
    },
  ],
  service: [
    {
      name: 'Health',
      method: [
        {
          name: 'Check',
          inputType: '.grpc.health.v1.HealthCheckRequest',
          outputType: '.grpc.health.v1.HealthCheckResponse',
        },
        {
          name: 'Watch',
          inputType: '.grpc.health.v1.HealthCheckRequest',
          outputType: '.grpc.health.v1.HealthCheckResponse',
          serverStreaming: true,
        },
      ],
    },
  ],
});

const SERVING = 1;
const NOT_SERVING = 2;
const SERVICE_UNKNOWN = 3;

/** The health of one server: of each of its services, and of the whole under the empty name. All change together. */
export class Health {
  readonly #services = new Set<string>(['']);
  readonly #watchers = new Set<() => void>();
  #serving = false;

  add(service: string): void {
    this.#services.add(service);
  }

  setServing(serving: boolean): void {
    if (serving === this.#serving) return;
    this.#serving = serving;
    for (const wake of this.#watchers) wake();
  }

  /** For {@link HealthService}. */
  readonly handlers = {
    check: async (request: unknown) => {
      const { service } = request as { service: string };
      if (!this.#services.has(service)) throw new MeshError('not_found', `no service ${service} here`);
      return { status: this.#status(service) };
    },

    watch: (request: unknown, ctx: Pick<CallContext, 'signal'>) =>
      this.#watch((request as { service: string }).service, ctx.signal),
  };

  async *#watch(service: string, signal: AbortSignal): AsyncGenerator<{ status: number }> {
    let told: number | undefined;
    while (!signal.aborted) {
      const status = this.#status(service);
      if (status !== told) yield { status };
      told = status;
      // Looked at again before the wait: it may have changed while the client took the last one.
      if (this.#status(service) === told) await this.#change(signal);
    }
  }

  #status(service: string): number {
    if (!this.#services.has(service)) return SERVICE_UNKNOWN;
    return this.#serving ? SERVING : NOT_SERVING;
  }

  /** Resolves at the next change, or when nobody watches any more. */
  #change(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        this.#watchers.delete(wake);
        signal.removeEventListener('abort', wake);
        resolve();
      };
      this.#watchers.add(wake);
      signal.addEventListener('abort', wake, { once: true });
      if (signal.aborted) wake();
    });
  }
}
