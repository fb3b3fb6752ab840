import type { ChatEvent, Message, Receipt } from '@chatmesh/sdk';
import { printable, type Terminal } from '../terminal.js';
import { interrupted, type SessionOptions, session } from './session.js';

export interface TailOptions extends SessionOptions {
  confirm: boolean;
  once: boolean;
}

/** `tail`: prints what arrives until interrupted, or until everything that waited has come. */
export async function tailCommand(terminal: Terminal, { confirm, once, ...options }: TailOptions): Promise<void> {
  const line = options.json ? asJson : asText;
  await session(
    terminal,
    options,
    async (chat) => {
      chat.on('message', (message) => terminal.out(line.message(message)));
      chat.on('receipt', (receipt) => terminal.out(line.receipt(receipt)));
      chat.on('event', (event) => terminal.out(line.event(event)));
      const caughtUp = new Promise<void>((resolve) => {
        chat.on('caught_up', () => {
          if (options.json) terminal.out('{"caught_up":true}');
          else terminal.err('Everything that waited has arrived.');
          resolve();
        });
      });
      await Promise.race([interrupted(terminal), ...(once ? [caughtUp] : [])]);
    },
    { autoConfirm: confirm },
  );
}

const asText = {
  message: ({ timestamp, senderId, receiverId, text, sealed }: Message) => {
    const whom = receiverId === undefined ? `from ${senderId}` : `to ${receiverId}`;
    return `${timestamp} ${whom}: ${sealed === undefined ? printable(text) : '(sealed)'}`;
  },
  receipt: ({ timestamp, status, serverMessageId, code }: Receipt) =>
    `${timestamp} ${status} ${serverMessageId}${code === undefined ? '' : ` (${code})`}`,
  event: ({ kind, userId, deviceId, groupId }: ChatEvent) =>
    [kind, userId, deviceId, groupId].filter((part) => part !== undefined).join(' '),
};

const asJson: { [K in keyof typeof asText]: (value: Parameters<(typeof asText)[K]>[0]) => string } = {
  message: (message) =>
    JSON.stringify({
      sender_id: message.senderId,
      receiver_id: message.receiverId,
      group_id: message.groupId,
      ...(message.sealed === undefined ? { content: message.text } : { sealed: true }),
      timestamp: message.timestamp,
      server_message_id: message.serverMessageId,
    }),
  receipt: (receipt) =>
    JSON.stringify({
      status: receipt.status,
      timestamp: receipt.timestamp,
      server_message_id: receipt.serverMessageId,
      client_message_id: receipt.clientMessageId,
      event_id: receipt.eventId,
      code: receipt.code,
    }),
  event: ({ eventId, kind, userId, deviceId, groupId }) =>
    JSON.stringify({ event_id: eventId, kind, user_id: userId, device_id: deviceId, group_id: groupId }),
};
