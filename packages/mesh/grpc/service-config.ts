import type { DescService } from '@bufbuild/protobuf';
import { MethodOptions_IdempotencyLevel } from '@bufbuild/protobuf/wkt';
import { status } from '@grpc/grpc-js';

const UNKNOWN = MethodOptions_IdempotencyLevel.IDEMPOTENCY_UNKNOWN;

/** Attempts after 0.1, 0.3, 0.9 and 1 s: a process that is replaced is back by then. */
const RETRY_POLICY = {
  maxAttempts: 5,
  initialBackoff: '0.1s',
  backoffMultiplier: 3,
  maxBackoff: '1s',
  retryableStatusCodes: [status.UNAVAILABLE],
};

/** A failure costs a token, a success gives a tenth of one back; with fewer than half of them nothing is tried again. */
const RETRY_BUDGET = { maxTokens: 100, tokenRatio: 0.1 };

/** Every 2 s: a process most of whose last calls failed gets none for 5 s, and longer each time. One of two at the most. */
const EJECTION = {
  interval: { seconds: 2, nanos: 0 },
  base_ejection_time: { seconds: 5, nanos: 0 },
  max_ejection_time: { seconds: 60, nanos: 0 },
  max_ejection_percent: 50,
  failure_percentage_ejection: { threshold: 50, enforcement_percentage: 100, minimum_hosts: 2, request_volume: 10 },
};

/**
 * How a service's clients share calls among its processes, as gRPC's service config: in turn, past those that fail, and
 * again where the contract says that a method may be repeated (`idempotency_level`), inside a budget.
 *
 * The retries are gRFC A6's, their budget is one per target and process; the ejection is gRFC A50's.
 */
export function serviceConfigOf(service: DescService): string {
  const repeatable = service.methods.filter(({ idempotency }) => idempotency !== UNKNOWN);
  const name = repeatable.map((method) => ({ service: service.typeName, method: method.name }));
  return JSON.stringify({
    loadBalancingConfig: [{ outlier_detection: { ...EJECTION, child_policy: [{ round_robin: {} }] } }],
    methodConfig: name.length > 0 ? [{ name, retryPolicy: RETRY_POLICY }] : [],
    retryThrottling: RETRY_BUDGET,
  });
}
