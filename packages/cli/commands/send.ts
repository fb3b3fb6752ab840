import { text as readAll } from 'node:stream/consumers';
import type { Receipt } from '@chatmesh/sdk';
import { CommandError, exitCodes } from '../failure.js';
import type { Terminal } from '../terminal.js';
import { interrupted, type SessionOptions, session } from './session.js';

export interface SendOptions extends SessionOptions {
  to: string;
  wait: 'sent' | 'delivered' | 'read';
  clientMessageId?: string;
}

/** `send`: one message, durable on the server when the command ends well. Confirms nothing that arrives meanwhile. */
export async function sendCommand(terminal: Terminal, given: string | undefined, options: SendOptions): Promise<void> {
  const text = given ?? (await readAll(terminal.stdin)).replace(/\r?\n$/, '');
  await session(
    terminal,
    options,
    async (chat) => {
      // The receipt may come before the answer.
      const receipts: Receipt[] = [];
      let heard: () => void = () => undefined;
      chat.on('receipt', (receipt) => {
        receipts.push(receipt);
        heard();
      });
      const { to, clientMessageId } = options;
      const sending = chat.send({ to, text, ...(clientMessageId !== undefined && { clientMessageId }) });
      const sent = await Promise.race([sending, interrupted(terminal)]);
      if (sent === undefined) throw new CommandError(exitCodes.refused, 'Interrupted before the server answered.');
      print(terminal, options, { ...sent, status: 'sent' });

      for (let shown = 0; options.wait !== 'sent'; ) {
        const receipt = receipts[shown];
        if (receipt === undefined) {
          const more = new Promise<'more'>((resolve) => {
            heard = () => resolve('more');
          });
          if ((await Promise.race([more, interrupted(terminal)])) === undefined) {
            throw new CommandError(exitCodes.refused, `Interrupted: sent, and not yet ${options.wait}.`);
          }
          continue;
        }
        shown += 1;
        if (receipt.serverMessageId !== sent.serverMessageId) continue;
        print(terminal, options, receipt);
        if (receipt.status === 'failed') throw new CommandError(exitCodes.refused, `It failed: ${receipt.code}.`);
        if (receipt.status === options.wait || receipt.status === 'read') return;
      }
    },
    { autoConfirm: false },
  );
}

interface Line {
  status: string;
  clientMessageId: string;
  serverMessageId: string;
  timestamp: string;
  deduplicated?: boolean;
}

function print(terminal: Terminal, { json }: SendOptions, line: Line): void {
  const { status, clientMessageId, serverMessageId, timestamp, deduplicated } = line;
  const fields = { status, client_message_id: clientMessageId, server_message_id: serverMessageId, timestamp };
  if (json) terminal.out(JSON.stringify({ ...fields, ...(deduplicated === true && { deduplicated }) }));
  else terminal.out(`${status} ${serverMessageId} at ${timestamp}${deduplicated === true ? ', as before' : ''}`);
}
