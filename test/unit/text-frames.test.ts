import { textFrames } from '@chatmesh/edge/domain/text-frames';
import { describe, expect, test } from '@jest/globals';
import { WebSocket, WebSocketServer } from 'ws';

/** What a client reads. */
async function read(bytes: Buffer, count: number): Promise<string[]> {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' });
  server.on('connection', (_client, request) => request.socket.write(bytes));
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as { port: number };
  const client = new WebSocket(`ws://127.0.0.1:${port}`);
  const messages: string[] = [];
  try {
    await new Promise<void>((resolve, reject) => {
      client.on('message', (data, isBinary) => {
        messages.push(isBinary ? 'binary' : `${data}`);
        if (messages.length === count) resolve();
      });
      client.once('error', reject);
    });
  } finally {
    client.terminate();
    server.close();
  }
  return messages;
}

describe('text frames', () => {
  test.each([0, 1, 125, 126, 127, 65_535, 65_536, 70_000])(
    'of %d bytes are read as they were written',
    async (length) => {
      const text = 'x'.repeat(length);
      expect(await read(textFrames([text]), 1)).toEqual([text]);
    },
  );

  test('count bytes, not characters', async () => {
    const texts = ['ä'.repeat(63), '漢'.repeat(42), '🙂'.repeat(32), '🙂'.repeat(16_384)];
    expect(await read(textFrames(texts), texts.length)).toEqual(texts);
  });

  test('stand back to back in the order of the texts', async () => {
    const texts = Array.from({ length: 500 }, (_, i) => `${i} ${'y'.repeat(i)}`);
    expect(await read(textFrames(texts), texts.length)).toEqual(texts);
  });
});
