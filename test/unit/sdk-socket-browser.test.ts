import { randomUUID } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { WebSocket } from 'ws';
import { fakeToken, ScriptedServer, until } from './sdk-server.js';

/** The SDK's socket for browsers, on a WebSocket that behaves as a browser's does. */
const { openSocket } = await import(new URL('../../../packages/sdk/dist/socket-browser.js', import.meta.url).href);

describe("a browser's socket", () => {
  let server: ScriptedServer;
  let created: WebSocket[];
  const before = Object.getOwnPropertyDescriptor(globalThis, 'WebSocket');

  beforeEach(async () => {
    server = await ScriptedServer.start();
    created = [];
    const Recorded = class extends WebSocket {
      constructor(url: string, protocols: string[]) {
        super(url, protocols);
        this.on('error', () => {});
        created.push(this);
      }
    };
    Object.defineProperty(globalThis, 'WebSocket', { value: Recorded, configurable: true });
  });
  afterEach(async () => {
    for (const socket of created) socket.terminate();
    await server[Symbol.asyncDispose]();
    if (before) Object.defineProperty(globalThis, 'WebSocket', before);
    else Reflect.deleteProperty(globalThis, 'WebSocket');
  });

  function open(limits: { handshakeTimeoutMs?: number; silenceLimitMs?: number } = {}) {
    const told = { opened: 0, received: [] as string[], ends: [] as { code: number; reason: string }[] };
    const protocols = ['chatmesh.v1', `bearer.${fakeToken(randomUUID(), randomUUID())}`];
    const events = {
      opened: () => told.opened++,
      received: (text: string) => told.received.push(text),
      closed: (end: { code: number; reason: string }) => told.ends.push(end),
    };
    return { socket: openSocket(`${server.url}/connect`, protocols, events, limits), told };
  }

  test('asks for heartbeats, since it cannot see pings', async () => {
    const { told } = open();
    await until(() => told.opened === 1);
    expect(server.protocols[0]?.split(',').map((name) => name.trim())).toContain('chatmesh.v1.heartbeat');
  });

  test('gives a path up on which nothing comes, without waiting for the answer to its close', async () => {
    const { told } = open({ silenceLimitMs: 40 });
    await until(() => told.opened === 1);
    server.stopReading();
    await until(() => told.ends.length === 1);
    expect(told.ends[0]).toEqual({ code: 1006, reason: 'the server is silent' });
    expect(created[0]?.readyState).toBe(WebSocket.CLOSING);
  });

  test('stays while heartbeats come', async () => {
    const { told } = open({ silenceLimitMs: 400 });
    await until(() => told.opened === 1);
    const beats = setInterval(() => server.push({ heartbeat: true }), 40);
    await until(() => told.received.length === 20);
    clearInterval(beats);
    expect(told.ends).toEqual([]);
  });

  test('gives an upgrade up that nobody answers', async () => {
    server.answerUpgrades = false;
    const { told } = open({ handshakeTimeoutMs: 40 });
    await until(() => told.ends.length === 1);
    expect(told.ends[0]).toEqual({ code: 1006, reason: 'the server did not answer' });
  });

  test('tells its end once', async () => {
    const { told } = open();
    await until(() => told.opened === 1);
    server.closeWith(1001);
    await until(() => told.ends.length === 1 && created[0]?.readyState === WebSocket.CLOSED);
    expect(told.ends).toEqual([expect.objectContaining({ code: 1001 })]);
  });
});
