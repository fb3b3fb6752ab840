import type { DescService } from '@bufbuild/protobuf';
import {
  Health,
  HealthService,
  MeshError,
  REFLECTION_SERVICES,
  Reflection,
  type ReflectionRequest,
} from '@chatmesh/mesh';
import type { ConnectRouter, HandlerContext } from '@connectrpc/connect';
import { asConnectError } from './connect-error.js';

/** Readiness changes with routers and drains; nobody who watches needs to know sooner. */
const LOOK_EVERY_MS = 500;
/** Watching needs no token, and each one is a stream that stays. */
const MAX_WATCHERS = 1_000;

/** What tools ask of the public ports: whether the edge can serve clients, and which services there are. Needs no token. */
export class Discovery {
  readonly #health = new Health();
  readonly #reflection = new Reflection();
  readonly #ready: () => boolean;
  #timer: NodeJS.Timeout | undefined;
  #watchers = 0;

  constructor(ready: () => boolean, services: readonly DescService[]) {
    this.#ready = ready;
    for (const service of [...services, HealthService, ...REFLECTION_SERVICES]) {
      this.#health.add(service.typeName);
      this.#reflection.add(service);
    }
  }

  routes(router: ConnectRouter): void {
    router.service(HealthService, {
      check: async (request: unknown) => {
        this.#look();
        return this.#health.handlers.check(request).catch(asConnectError);
      },
      watch: (request: unknown, context: HandlerContext) => this.#watch(request, context.signal),
    } as never);
    const reflection = this.#reflection;
    for (const service of REFLECTION_SERVICES) {
      router.service(service, {
        async *serverReflectionInfo(requests: AsyncIterable<unknown>) {
          for await (const request of requests) yield reflection.answer(request as ReflectionRequest);
        },
      } as never);
    }
  }

  /** Ends nothing; whoever watches is told of no further change. */
  close(): void {
    clearInterval(this.#timer);
  }

  async *#watch(request: unknown, signal: AbortSignal): AsyncGenerator<{ status: number }> {
    if (this.#watchers >= MAX_WATCHERS) asConnectError(new MeshError('resource_exhausted', 'too many watch already'));
    this.#watchers++;
    this.#look();
    this.#timer ??= setInterval(() => this.#look(), LOOK_EVERY_MS).unref();
    try {
      yield* this.#health.handlers.watch(request, { signal });
    } finally {
      if (--this.#watchers === 0) {
        clearInterval(this.#timer);
        this.#timer = undefined;
      }
    }
  }

  #look(): void {
    this.#health.setServing(this.#ready());
  }
}
