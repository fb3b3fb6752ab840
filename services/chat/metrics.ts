import type { MeshClock, Metrics } from '@chatmesh/mesh';
import type { Ingress } from './routing/ingress.js';
import type { Owner } from './routing/owner.js';

const LATENCY_BUCKETS_S = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 60];
/** A device that is away for a day or two is nothing unusual. */
const DELIVERY_BUCKETS_S = [...LATENCY_BUCKETS_S, 600, 3_600, 43_200, 172_800];

/** In the first are the devices for which nothing waited. */
const DEPTH_BUCKETS = [0, 1, 10, 100, 1_000, 10_000, 100_000];

/** What a router tells of itself. Its counters are plain numbers, which are read when somebody asks. */
export function exposeRouter(metrics: Metrics, { ingress, owner, clock }: RouterParts): void {
  const transmitted = metrics.histogram({
    name: 'chatmesh_accept_to_transmit_seconds',
    help: 'From the acceptance of a message to its transmission to a device.',
    buckets: LATENCY_BUCKETS_S,
  });
  owner.onTransmitted = ({ acceptedAtMs }) => transmitted.observe((clock.now() - Number(acceptedAtMs)) / 1000);
  const delivered = metrics.histogram({
    name: 'chatmesh_accept_to_deliver_seconds',
    help: 'From the acceptance of a message to the first confirmation of a device of the recipient, who may have been away.',
    buckets: DELIVERY_BUCKETS_S,
  });
  owner.onDelivered = (acceptedAtMs, atMs) => delivered.observe((atMs - acceptedAtMs) / 1000);
  const depth = metrics.histogram({
    name: 'chatmesh_inbox_depth',
    help: 'Events that waited in the inbox of a device, for each session that has been sent all of them.',
    buckets: DEPTH_BUCKETS,
  });
  owner.onDrained = (rows) => depth.observe(rows);
  const { counts } = owner;
  metrics.counter(
    {
      name: 'chatmesh_submits_total',
      help: 'Messages handed in, by result: accepted, repeated, or the code of the refusal.',
      labelNames: ['result'],
    },
    () => [...ingress.results].map(([result, count]) => [{ result }, count] as const),
  );
  metrics.gauge(
    { name: 'chatmesh_submits_pending', help: 'Messages handed in that are neither accepted nor refused yet.' },
    () => ingress.pending,
  );
  metrics.counter(
    { name: 'chatmesh_redeliveries_total', help: 'Events sent once more because a device had not confirmed them.' },
    () => counts.redeliveries,
  );
  metrics.counter(
    {
      name: 'chatmesh_sessions_unconfirmed_total',
      help: 'Sessions that were closed because repeats did not bring a confirmation.',
    },
    () => counts.unconfirmedSessions,
  );
  metrics.counter(
    {
      name: 'chatmesh_refused_confirmations_total',
      help: 'Confirmations that a store refused to record; the log keeps them for further attempts.',
    },
    () => counts.refusedConfirmations,
  );
  metrics.counter(
    { name: 'chatmesh_dead_letters_total', help: 'Events that could not be handled and were given up.' },
    () => counts.deadLetters,
  );
  metrics.counter(
    {
      name: 'chatmesh_failed_messages_total',
      help: 'Messages given up after their acceptance, by the code that their senders are told.',
      labelNames: ['code'],
    },
    () => [...counts.failed].map(([code, count]) => [{ code }, count] as const),
  );
  metrics.gauge(
    {
      name: 'chatmesh_deliveries_unconfirmed',
      help: 'Events that were transmitted to sessions of this router and are not confirmed.',
    },
    () => owner.inFlight,
  );
  metrics.gauge(
    {
      name: 'chatmesh_log_unacknowledged',
      help: 'Events that the log has handed to this router and that it is not done with.',
    },
    () => owner.unacknowledged,
  );
  metrics.gauge(
    {
      name: 'chatmesh_log_oldest_unacknowledged_seconds',
      help: 'Age of the oldest message or receipt that the log has handed to this router and that it is not done with; 0 without any.',
    },
    () => {
      const atMs = owner.oldestAtMs;
      return atMs === undefined ? 0 : Math.max(0, clock.now() - atMs) / 1000;
    },
  );
  metrics.gauge(
    {
      name: 'chatmesh_clock_ahead_seconds',
      help: "By how much the time that messages bear is ahead of this machine's clock, because that was set back or another router's is fast.",
    },
    () => clock.aheadMs / 1000,
  );
  metrics.gauge({ name: 'chatmesh_recipients', help: 'Users with an actor on this router.' }, () => owner.recipients);
}

interface RouterParts {
  readonly ingress: Ingress;
  readonly owner: Owner;
  readonly clock: MeshClock;
}
