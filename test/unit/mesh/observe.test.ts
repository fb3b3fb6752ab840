import { AdminServer, createLogger, Metrics, traceFields } from '@chatmesh/mesh';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { memoryLogger } from './support.js';

let metrics: Metrics;
let admin: AdminServer;
let base: string;

beforeEach(async () => {
  metrics = new Metrics();
  admin = new AdminServer({ metrics, logger: memoryLogger().logger, variable: 'ADMIN_PORT', pid: process.pid });
  base = `http://127.0.0.1:${await admin.listen(0, '127.0.0.1')}`;
});

afterEach(() => admin.close());

describe('the admin port', () => {
  test('is ready only when every check passes, and names those that do not with their reasons', async () => {
    expect((await fetch(`${base}/readyz`)).status).toBe(200);
    let ready: boolean | string = true;
    admin.addCheck('store', () => ready);
    admin.addCheck('broken', () => {
      throw new Error('oops');
    });
    admin.addCheck('fine', () => true);
    ready = 'the disk is full';
    const response = await fetch(`${base}/readyz`);
    expect(response.status).toBe(503);
    expect(await response.json()).toEqual({
      status: 'not ready',
      pid: process.pid,
      failing: { store: 'the disk is full', broken: 'the check failed to run' },
    });
    expect((await fetch(`${base}/livez`)).status).toBe(200);
  });

  test("serves metrics in Prometheus' format, with heap and event loop delay of the process", async () => {
    metrics.counter({ name: 'tries_total', help: 'Tries.', labelNames: ['how'] }).inc({ how: 'hard' }, 2);
    metrics.gauge({ name: 'depth', help: 'Depth.' }, () => 42);
    const response = await fetch(`${base}/metrics`);
    expect(response.headers.get('content-type')).toContain('text/plain');
    const text = await response.text();
    for (const line of [
      'tries_total{how="hard"} 2',
      'depth 42',
      'nodejs_heap_size_used_bytes',
      'nodejs_eventloop_lag_p99_seconds',
    ]) {
      expect(text).toContain(line);
    }
  });

  test('knows no other paths and no other methods', async () => {
    expect((await fetch(`${base}/admin`)).status).toBe(404);
    expect((await fetch(`${base}/livez`, { method: 'POST' })).status).toBe(405);
  });

  test('a port in use is reported by variable and port', async () => {
    const second = new AdminServer({
      metrics,
      logger: memoryLogger().logger,
      variable: 'ADMIN_PORT',
      pid: process.pid,
    });
    await expect(second.listen(admin.port, '127.0.0.1')).rejects.toThrow(
      `ADMIN_PORT=${admin.port} is in use by another process; set ADMIN_PORT to a free port`,
    );
    await second.close();
  });
});

describe('metrics', () => {
  test('asking for a name again gives the same metric', () => {
    const options = { name: 'calls_total', help: 'Calls.' };
    expect(metrics.counter(options)).toBe(metrics.counter(options));
    const buckets = { name: 'seconds', help: 'Time.', buckets: [1] };
    expect(metrics.histogram(buckets)).toBe(metrics.histogram(buckets));
  });
});

describe('logs', () => {
  test('a level that does not exist is refused by name', () => {
    expect(() => createLogger({ name: 'x', level: 'loud' })).toThrow(
      /unknown log level "loud"; there are trace, debug, info/,
    );
  });

  test('a line about a message that is followed names its trace', () => {
    const { logger, lines } = memoryLogger();
    logger.info(traceFields('00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'), 'followed');
    logger.info(traceFields(''), 'not followed');
    expect(lines[0]).toMatchObject({ trace_id: '0af7651916cd43dd8448eb211c80319c' });
    expect(lines[1]).not.toHaveProperty('trace_id');
  });

  test('a line is one JSON object that says when, how grave and who', () => {
    const { logger, lines } = memoryLogger();
    logger.info({ port: 1 }, 'listening');
    expect(lines).toMatchObject([
      { level: 'info', name: 'test', port: 1, msg: 'listening', time: expect.stringMatching(/^\d{4}-.*Z$/) },
    ]);
  });
});
