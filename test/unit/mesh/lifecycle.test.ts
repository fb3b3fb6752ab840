import { EventEmitter } from 'node:events';
import { MeshError, PortInUseError, runServices, type Service } from '@chatmesh/mesh';
import { describe, expect, test } from '@jest/globals';
import { gate, memoryLogger } from './support.js';

/** Runs services that write down what happens to them. */
function run(names: string[], behaviour: Partial<Record<string, () => Promise<void>>> = {}, drainMs = 1_000) {
  const events: string[] = [];
  const deadlines: number[] = [];
  const exit = gate<number>();
  const exits: number[] = [];
  const signals = new EventEmitter();
  const { logger, lines } = memoryLogger();
  const step = async (event: string) => {
    events.push(event);
    await behaviour[event]?.();
  };
  const services = names.map(
    (name): Service => ({
      name,
      start: () => step(`start ${name}`),
      drain: (ms) => {
        deadlines.push(ms);
        return step(`drain ${name}`);
      },
      [Symbol.asyncDispose]: () => step(`dispose ${name}`),
    }),
  );
  const running = runServices(services, {
    logger,
    drainMs,
    signals,
    exit: (code) => {
      exits.push(code);
      exit.open(code);
    },
    onStarted: (service) => events.push(`started ${service.name}`),
    onDraining: () => events.push('draining'),
  });
  return { events, deadlines, exit: exit.promise, exits, signals, lines, running };
}

describe('the life of a process', () => {
  test('services start in order, drain and close in reverse, and the process leaves with 0', async () => {
    const { events, exit, signals, running } = run(['a', 'b']);
    await running;
    signals.emit('SIGTERM', 'SIGTERM');
    expect(await exit).toBe(0);
    expect(events).toEqual([
      ...['start a', 'started a', 'start b', 'started b', 'draining'],
      ...['drain b', 'drain a', 'dispose b', 'dispose a'],
    ]);
    expect(signals.eventNames()).toEqual([]);
  });

  test('all services share one drain deadline, and one that overruns it does not stop the others', async () => {
    const { events, deadlines, exit, signals, running, lines } = run(
      ['a', 'b'],
      { 'drain b': () => new Promise(() => {}) },
      100,
    );
    await running;
    signals.emit('SIGINT', 'SIGINT');
    expect(await exit).toBe(0);
    expect(deadlines[0]).toBeGreaterThan(50);
    expect(deadlines[1]).toBe(0);
    expect(events.slice(-3)).toEqual(['drain a', 'dispose b', 'dispose a']);
    expect(lines.some(({ msg }) => msg === 'b did not drain cleanly')).toBe(true);
  });

  test('a second signal leaves at once with 130', async () => {
    const stuck = gate();
    const { exits, signals, running } = run(['a'], { 'drain a': () => stuck.promise });
    await running;
    signals.emit('SIGTERM', 'SIGTERM');
    signals.emit('SIGINT', 'SIGINT');
    expect(exits).toEqual([130]);
    stuck.open();
  });

  test('a failed start closes in reverse what had started, says why in one sentence, and leaves with 1', async () => {
    const { events, exit, lines } = run(['a', 'b', 'c'], {
      'start b': () => Promise.reject(new PortInUseError('CHAT_PORT', 7001)),
    });
    expect(await exit).toBe(1);
    expect(events).toEqual(['start a', 'started a', 'start b', 'dispose b', 'dispose a']);
    expect(lines.at(-1)).toMatchObject({
      level: 'fatal',
      msg: 'b cannot start: CHAT_PORT=7001 is in use by another process; set CHAT_PORT to a free port',
    });
  });

  test('a service that fails to close does not keep the others from it', async () => {
    const { events, exit, signals, running } = run(['a', 'b'], {
      'dispose b': () => Promise.reject(new MeshError('internal', 'no')),
    });
    await running;
    signals.emit('SIGTERM', 'SIGTERM');
    expect(await exit).toBe(0);
    expect(events.at(-1)).toBe('dispose a');
  });

  test('a signal during the start stops it, and what has started is drained and closed', async () => {
    const started = gate();
    const { events, exit, signals } = run(['a', 'b', 'c'], { 'start b': () => started.promise });
    await Promise.resolve();
    signals.emit('SIGTERM', 'SIGTERM');
    started.open();
    expect(await exit).toBe(0);
    expect(events).not.toContain('start c');
    expect(events.at(-1)).toBe('dispose a');
  });

  test('an error that nobody caught is logged and ends the process with 1', async () => {
    for (const event of ['uncaughtException', 'unhandledRejection']) {
      const { exit, signals, running, lines } = run(['a']);
      await running;
      signals.emit(event, new Error('unexpected'));
      expect(await exit).toBe(1);
      expect(lines.at(-1)).toMatchObject({ level: 'fatal', err: { message: 'unexpected' } });
    }
  });
});
