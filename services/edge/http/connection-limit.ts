import type { Socket } from 'node:net';
import { networkOf } from '../domain/address.js';

/** Bounds the connections that one client address may have open, to both ports together. */
export class ConnectionLimit {
  readonly #maxPerAddress: number;
  /** By address; one that has no connection is not in it. */
  readonly #open = new Map<string, number>();
  /** Connections that were closed as soon as they came. */
  refused = 0;

  /** @param maxPerAddress 0 is no limit. */
  constructor(maxPerAddress: number) {
    this.#maxPerAddress = maxPerAddress;
  }

  /** Counts a connection that has come, and closes it where it is one too many. False when it did. */
  admit(socket: Socket): boolean {
    if (this.#maxPerAddress === 0 || socket.remoteAddress === undefined) return true;
    const network = networkOf(socket.remoteAddress);
    const count = this.#open.get(network) ?? 0;
    if (count >= this.#maxPerAddress) {
      this.refused++;
      socket.destroy();
      return false;
    }
    this.#open.set(network, count + 1);
    socket.once('close', () => this.#release(network));
    return true;
  }

  #release(network: string): void {
    const count = this.#open.get(network) ?? 1;
    if (count === 1) this.#open.delete(network);
    else this.#open.set(network, count - 1);
  }
}
