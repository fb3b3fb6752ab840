/** What a step may say about itself. Content is not among it, and nothing else that a user has written. */
export interface SpanAttributes {
  'chatmesh.server_message_id'?: string;
  /** message, copy or receipt. */
  'chatmesh.event'?: string;
  'chatmesh.device_id'?: string;
  /** Where an event was when it was transmitted: log or inbox. */
  'chatmesh.from'?: string;
  /** How often the event had been transmitted before. */
  'chatmesh.repeats'?: number;
  'chatmesh.position'?: string;
  /** delivered or read. */
  'chatmesh.status'?: string;
  /** accepted, repeated, or the kind of a refusal. */
  'chatmesh.result'?: string;
}

/** One step on the way of a message that is followed. */
export interface Span {
  /** The step as W3C's traceparent says it: what follows stands under it. */
  readonly traceparent: string;
  /** Ends the step. A `failure` marks it as failed. */
  end(attributes?: SpanAttributes, failure?: string): void;
}

export interface SpanOptions {
  /** The step before; empty for the first. */
  readonly parent: string;
  readonly attributes?: SpanAttributes;
  /** When it began, milliseconds since 1970; now unless given. */
  readonly startedAtMs?: number;
}

/**
 * Follows some messages through the mesh. Whether a message is followed is decided once, where it enters the mesh; from
 * there on its traceparent travels with it, and a message without one costs a look at an empty text.
 */
export interface Traces {
  /** Whether the next message is to be followed. */
  sample(): boolean;
  begin(name: string, options: SpanOptions): Span;
  /** Sends what has not been sent, for some seconds at most. */
  close(): Promise<void>;
}

/** For a line of the log that concerns one message: its trace, if it is followed. */
export function traceFields(traceparent: string): { trace_id?: string } {
  const [, traceId] = traceparent.split('-');
  return traceId === undefined ? {} : { trace_id: traceId };
}
