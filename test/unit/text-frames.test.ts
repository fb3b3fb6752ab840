import { TextFrames } from '@chatmesh/edge/domain/text-frames';
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

function framesOf(texts: readonly string[]): Buffer {
  const frames = new TextFrames();
  for (const text of texts) frames.add(text);
  return frames.finish();
}

describe('text frames', () => {
  test.each([0, 1, 125, 126, 127, 65_535, 65_536, 70_000])(
    'of %d bytes are read as they were written',
    async (length) => {
      const text = 'x'.repeat(length);
      expect(await read(framesOf([text]), 1)).toEqual([text]);
    },
  );

  test('count bytes, not characters', async () => {
    const texts = ['ä'.repeat(63), '漢'.repeat(42), '🙂'.repeat(32), '🙂'.repeat(16_384)];
    expect(await read(framesOf(texts), texts.length)).toEqual(texts);
  });

  test('stand back to back in the order of the texts', async () => {
    const texts = Array.from({ length: 500 }, (_, i) => `${i} ${'y'.repeat(i)}`);
    expect(await read(framesOf(texts), texts.length)).toEqual(texts);
  });

  test('are put together from texts and from UTF-8', async () => {
    const frames = new TextFrames();
    const bytes = Buffer.from('<ä"漢\n🙂>');
    frames.open();
    frames.text('ä');
    frames.utf8(bytes, 1, 3);
    frames.text('"');
    frames.jsonUtf8(bytes, 1, bytes.length - 1);
    frames.text('"');
    frames.close();
    expect(await read(frames.finish(), 1)).toEqual(['ää"ä\\"漢\\n🙂"']);
  });

  test('that were not closed leave nothing behind', async () => {
    const frames = new TextFrames();
    frames.add('first');
    frames.open();
    frames.text('unfinished '.repeat(100));
    frames.add('second');
    frames.open();
    frames.text('unfinished');
    expect(await read(frames.finish(), 2)).toEqual(['first', 'second']);
  });
});
