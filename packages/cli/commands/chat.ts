import { createInterface } from 'node:readline';
import { painter, printable, type Terminal } from '../terminal.js';
import { interrupted, type SessionOptions, session } from './session.js';

export interface ChatOptions extends SessionOptions {
  to: string;
}

const ticks = { sent: '✓', delivered: '✓✓', read: '✓✓', failed: '✗' } as const;

/** `chat`: what is typed goes to one user, what comes from that user is shown and counts as read. */
export async function chatCommand(terminal: Terminal, options: ChatOptions): Promise<void> {
  const paint = painter(terminal);
  const interactive = terminal.interactive && terminal.stdin.isTTY;
  const { json, to } = options;

  await session(terminal, options, async (chat) => {
    const lines = createInterface({
      input: terminal.stdin,
      ...(interactive && { output: terminal.stdout, prompt: '> ' }),
    });
    const show = (text: string, event: object): void => {
      if (interactive) terminal.progress('');
      terminal.out(json ? JSON.stringify(event) : text);
      if (interactive) lines.prompt(true);
    };
    const status = (state: keyof typeof ticks, id: string, text: string, code?: string): void => {
      const mark = state === 'read' ? paint('blue', ticks.read) : ticks[state];
      const what = `${mark} ${state}${code === undefined ? '' : ` (${code})`}`;
      show(`${paint('dim', clock())} ${what}: ${paint('dim', printable(text, 40))}`, {
        status: state,
        server_message_id: id,
        code,
      });
    };

    const texts = new Map<string, string>();
    chat.on('message', ({ senderId, receiverId, text, serverMessageId, timestamp }) => {
      const who = receiverId !== undefined ? 'you' : senderId === to ? 'them' : senderId;
      show(`${paint('dim', clock(timestamp))} ${paint('cyan', who)}: ${printable(text)}`, {
        sender_id: senderId,
        receiver_id: receiverId,
        content: text,
        server_message_id: serverMessageId,
      });
      if (senderId === to) chat.markRead(serverMessageId);
    });
    chat.on('receipt', (receipt) => {
      const text = texts.get(receipt.clientMessageId);
      if (text !== undefined) status(receipt.status, receipt.serverMessageId, text, receipt.code);
    });

    const sending = new Set<Promise<void>>();
    lines.on('line', (text) => {
      if (text.trim() === '') return;
      const clientMessageId = crypto.randomUUID();
      texts.set(clientMessageId, text);
      const sent = chat.send({ to, text, clientMessageId }).then(
        ({ serverMessageId }) => status('sent', serverMessageId, text),
        (error) => status('failed', '', text, error.code),
      );
      sending.add(sent);
      void sent.finally(() => sending.delete(sent));
    });
    if (interactive) {
      terminal.out(paint('dim', `You talk to ${to}. Enter sends, Ctrl-D leaves.`));
      lines.prompt();
    }
    const ended = new Promise<void>((resolve) => {
      lines.once('close', () => resolve());
      lines.once('SIGINT', () => resolve());
    });
    await Promise.race([ended, interrupted(terminal)]);
    lines.close();
    await Promise.race([Promise.all(sending), interrupted(terminal)]);
  });
}

function clock(timestamp?: string): string {
  return (timestamp === undefined ? new Date() : new Date(timestamp)).toTimeString().slice(0, 5);
}
