import { connect, type Socket } from 'node:net';
import type { TestUser } from './mesh.js';

/** A text frame as a client sends it, masked by zeros: what is written is what is read. */
export function textFrame(text: string): Buffer {
  const payload = Buffer.from(text);
  const head =
    payload.length < 126
      ? Buffer.of(0x81, 0x80 | payload.length)
      : Buffer.of(0x81, 0xfe, payload.length >> 8, payload.length & 0xff);
  return Buffer.concat([head, Buffer.alloc(4), payload]);
}

/** A ping with so many bytes. */
export function pingFrame(bytes: number): Buffer {
  return Buffer.concat([Buffer.of(0x89, 0x80 | bytes), Buffer.alloc(4 + bytes)]);
}

/** A WebSocket client that reads nothing after the upgrade, and writes whole frames as they are given. */
export class DeafSocket {
  readonly tcp: Socket;

  private constructor(tcp: Socket) {
    this.tcp = tcp;
  }

  static async connect(url: string, user: TestUser): Promise<DeafSocket> {
    const { hostname, port, host, pathname } = new URL(url);
    const tcp = connect({ host: hostname, port: Number(port) });
    tcp.on('error', () => {});
    tcp.write(
      `GET ${pathname} HTTP/1.1\r\nHost: ${host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n` +
        `Sec-WebSocket-Key: ${Buffer.alloc(16).toString('base64')}\r\nAuthorization: Bearer ${user.token}\r\n\r\n`,
    );
    const answer = await new Promise<Buffer>((resolve) => tcp.once('data', resolve));
    if (!answer.toString('latin1').startsWith('HTTP/1.1 101')) throw new Error(`refused: ${answer}`);
    tcp.pause();
    return new DeafSocket(tcp);
  }

  /**
   * Writes the same frames again and again, `repeats` times, as fast as the server reads them. Resolves when they are
   * written, when the server has ended the connection, or when `enough` says so.
   */
  async flood(frames: Buffer, repeats: number, enough: () => boolean): Promise<'written' | 'closed' | 'enough'> {
    for (let n = 0; n < repeats; n++) {
      const full = !this.tcp.write(frames);
      while (full && this.tcp.writableNeedDrain) {
        if (this.tcp.destroyed) return 'closed';
        if (enough()) return 'enough';
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      if (this.tcp.destroyed) return 'closed';
      if (enough()) return 'enough';
    }
    return 'written';
  }
}
