import { engineOperation, Metrics } from '@chatmesh/mesh';
import { describe, expect, test } from '@jest/globals';

describe('a histogram', () => {
  test('counts each value in its bucket and in all wider ones, and keeps sum and count, by labels', async () => {
    const metrics = new Metrics({ processMetrics: false });
    const histogram = metrics.histogram({ name: 'x_seconds', help: 'X.', labelNames: ['a'], buckets: [0.1, 1] });
    const one = histogram.labels({ a: 'one' });
    for (const value of [0.1, 0.25, 4]) one.observe(value);
    histogram.labels({ a: 'two' }).observe(0.5);
    expect(histogram.labels({ a: 'one' })).toBe(one);
    expect(await metrics.text()).toBe(
      [
        '# HELP x_seconds X.',
        '# TYPE x_seconds histogram',
        'x_seconds_bucket{a="one",le="0.1"} 1',
        'x_seconds_bucket{a="one",le="1"} 2',
        'x_seconds_bucket{a="one",le="+Inf"} 3',
        'x_seconds_sum{a="one"} 4.35',
        'x_seconds_count{a="one"} 3',
        'x_seconds_bucket{a="two",le="0.1"} 0',
        'x_seconds_bucket{a="two",le="1"} 1',
        'x_seconds_bucket{a="two",le="+Inf"} 1',
        'x_seconds_sum{a="two"} 0.5',
        'x_seconds_count{a="two"} 1',
        '',
      ].join('\n'),
    );
  });

  test('a request to an engine counts where it succeeded or failed', async () => {
    const metrics = new Metrics({ processMetrics: false });
    const reads = engineOperation(metrics, 'cassandra', 'read');
    expect(await reads.time(async () => 7)).toBe(7);
    await expect(reads.time(() => Promise.reject(new Error('away')))).rejects.toThrow('away');
    const text = await metrics.text();
    expect(text).toContain('chatmesh_engine_seconds_count{engine="cassandra",operation="read",outcome="ok"} 1');
    expect(text).toContain('chatmesh_engine_seconds_count{engine="cassandra",operation="read",outcome="failed"} 1');
  });
});

describe('a counter or gauge that is asked', () => {
  test('shows what is there at the moment, and only that', async () => {
    const metrics = new Metrics({ processMetrics: false });
    const codes = new Map([['ok', 2]]);
    const options = { name: 'calls_total', help: 'Calls.', labelNames: ['code'] as const };
    metrics.counter(options, () => [...codes].map(([code, count]) => [{ code }, count] as const));
    let depth = 3;
    metrics.gauge({ name: 'depth', help: 'Depth.' }, async () => depth);
    expect(await metrics.text()).toContain('calls_total{code="ok"} 2');
    codes.set('ok', 3);
    codes.set('late', 1);
    depth = 4;
    const text = await metrics.text();
    for (const line of ['calls_total{code="ok"} 3', 'calls_total{code="late"} 1', 'depth 4'])
      expect(text.split('\n')).toContain(line);
  });
});
