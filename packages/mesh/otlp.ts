import {
  type Attributes,
  DiagLogLevel,
  diag,
  ROOT_CONTEXT,
  SpanStatusCode,
  TraceFlags,
  type Tracer,
  trace,
} from '@opentelemetry/api';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { AlwaysOnSampler, BatchSpanProcessor, TracerProvider } from '@opentelemetry/sdk-trace';
import { sleep } from './abort.js';
import type { Logger } from './observe.js';
import type { Span, SpanAttributes, SpanOptions, Traces } from './traces.js';

export interface OtlpOptions {
  /** Of a collector: spans go to /v1/traces below it, as JSON. */
  readonly endpoint: string;
  /** The share of messages that is followed, 0 to 1. */
  readonly ratio: number;
  readonly serviceName: string;
}

const SEND_EVERY_MS = 1_000;
const CLOSE_MS = 2_000;
const TRACEPARENT = /^00-([\da-f]{32})-([\da-f]{16})-01$/;

/** Sends spans to a collector of OpenTelemetry. It is loaded only where there is one: the libraries cost memory and time. */
export class OtlpTraces implements Traces {
  readonly #ratio: number;
  readonly #provider: TracerProvider;
  readonly #tracer: Tracer;

  constructor({ endpoint, ratio, serviceName }: OtlpOptions, { logger }: { logger: Logger }) {
    const log = (message: string) => logger.warn({ reason: message }, 'spans were not sent');
    const ignore = () => {};
    diag.setLogger({ error: log, warn: ignore, info: ignore, debug: ignore, verbose: ignore }, DiagLogLevel.ERROR);
    const exporter = new OTLPTraceExporter({ url: `${endpoint.replace(/\/$/, '')}/v1/traces` });
    this.#ratio = ratio;
    this.#provider = new TracerProvider({
      resource: resourceFromAttributes({ 'service.name': serviceName }),
      // The decision was made where the message came in.
      sampler: new AlwaysOnSampler(),
      spanProcessors: [new BatchSpanProcessor({ exporter, scheduledDelayMillis: SEND_EVERY_MS })],
    });
    this.#tracer = this.#provider.getTracer('chatmesh');
  }

  sample(): boolean {
    return Math.random() < this.#ratio;
  }

  begin(name: string, { parent, attributes = {}, startedAtMs }: SpanOptions): Span {
    const [, traceId, spanId] = TRACEPARENT.exec(parent) ?? [];
    const context =
      traceId !== undefined && spanId !== undefined
        ? trace.setSpanContext(ROOT_CONTEXT, { traceId, spanId, traceFlags: TraceFlags.SAMPLED, isRemote: true })
        : ROOT_CONTEXT;
    const span = this.#tracer.startSpan(
      name,
      { attributes: attributes as Attributes, ...(startedAtMs !== undefined && { startTime: startedAtMs }) },
      context,
    );
    const own = span.spanContext();
    return {
      traceparent: `00-${own.traceId}-${own.spanId}-01`,
      end: (more: SpanAttributes = {}, failure?: string) => {
        span.setAttributes(more as Attributes);
        if (failure !== undefined) span.setStatus({ code: SpanStatusCode.ERROR, message: failure });
        span.end();
      },
    };
  }

  async close(): Promise<void> {
    const late = new AbortController();
    await Promise.race([this.#provider.shutdown().catch(() => {}), sleep(CLOSE_MS, late).catch(() => {})]);
    late.abort();
  }
}
