import { type Chat, type ConnectOptions, connect } from '@chatmesh/sdk';
import { edgeFailure } from '../failure.js';
import type { Terminal } from '../terminal.js';

/** What every command of a connected device takes. */
export interface SessionOptions {
  url: string;
  token: string;
  json: boolean;
}

/**
 * Connects, and says on standard error when the connection comes and goes. The promise rejects when the connection
 * ends for good; the signal, when the user interrupts.
 */
export async function session<T>(
  terminal: Terminal,
  { url, token }: SessionOptions,
  use: (chat: Chat) => Promise<T>,
  options: Partial<ConnectOptions> = {},
): Promise<T> {
  let chat: Chat | undefined;
  try {
    chat = await connect({ ...options, url, token });
    return await Promise.race([use(chat), ended(chat, terminal)]);
  } catch (error) {
    throw edgeFailure(error, url);
  } finally {
    await chat?.close();
  }
}

/** Resolves when the user interrupts. */
export function interrupted(terminal: Terminal): Promise<void> {
  return new Promise((resolve) => {
    if (terminal.signal.aborted) resolve();
    else terminal.signal.addEventListener('abort', () => resolve(), { once: true });
  });
}

function ended(chat: Chat, terminal: Terminal): Promise<never> {
  return new Promise((_resolve, reject) => {
    chat.on('status', (status) => {
      if (status.state === 'closed' && status.error !== undefined) reject(status.error);
      else if (status.state === 'waiting') {
        terminal.err(`The connection is lost (${status.reason}); trying again in ${Math.ceil(status.retryInMs)} ms.`);
      } else if (status.state === 'online') terminal.err('Connected again.');
    });
    chat.on('error', (error) => terminal.err(`The server says ${error.code}: ${error.message}`));
  });
}
