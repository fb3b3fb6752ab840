import type { Metrics } from '@chatmesh/mesh';

/** @param backlogs by the topic's short name; those that are missing are not known. */
export function exposeBacklog(metrics: Metrics, backlogs: () => Iterable<readonly [string, number]>): void {
  metrics.gauge(
    {
      name: 'chatmesh_log_backlog',
      help: 'What lies on the log and no router has acknowledged: events, or on Pulsar entries, each a batch of events.',
      labelNames: ['topic'],
    },
    () => [...backlogs()].map(([topic, count]) => [{ topic }, count] as const),
  );
}
