import { ChatError } from '@chatmesh/sdk';
import { CommandError, edgeFailure, exitCodes, unreachable } from '../failure.js';
import { httpUrl } from '../options.js';
import type { Terminal } from '../terminal.js';
import { type ExplainOptions, explain } from './explain.js';

const maxIdsPerCall = 256;

/** A message's state as Connect's JSON has it. */
interface State {
  serverMessageId: string;
  clientMessageId?: string;
  status?: string;
  acceptedAt?: string;
  deliveredAt?: string;
  readAt?: string;
  failedAt?: string;
  code?: string;
  receiverId?: string;
}

interface StatusOptions extends ExplainOptions {
  explain: boolean;
  url: string;
}

/** `status`: where messages stand that the token's user sent. Fails when there is no such message. */
export async function statusCommand(terminal: Terminal, ids: string[], options: StatusOptions): Promise<void> {
  if (options.explain) return await explain(terminal, ids, options);
  const { token, url } = options;
  if (token === undefined) throw new CommandError(exitCodes.usage, 'Say who you are: --token.');
  const found = new Map<string, State>();
  for (let i = 0; i < ids.length; i += maxIdsPerCall) {
    for (const state of await getStatus(terminal, ids.slice(i, i + maxIdsPerCall), { url, token })) {
      found.set(state.serverMessageId, state);
    }
  }
  for (const id of ids) print(terminal, id, found.get(id), options.json);
  const missing = ids.filter((id) => !found.has(id)).length;
  if (missing > 0) throw new CommandError(exitCodes.refused, `${missing} of them you did not send.`);
}

async function getStatus(
  terminal: Terminal,
  ids: string[],
  { url, token }: { url: string; token: string },
): Promise<State[]> {
  let response: Response;
  try {
    response = await fetch(httpUrl(url, '/chat.v1.ChatService/GetStatus'), {
      method: 'POST',
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      body: JSON.stringify({ serverMessageIds: ids }),
      signal: terminal.signal,
    });
  } catch {
    throw unreachable(url, '--url');
  }
  const body = (await response.json().catch(() => ({}))) as { states?: State[]; code?: string; message?: string };
  if (response.ok) return body.states ?? [];
  const message = body.message ?? `HTTP status ${response.status}`;
  throw edgeFailure(new ChatError(body.code ?? 'internal', message), url);
}

function print(terminal: Terminal, id: string, state: State | undefined, json: boolean): void {
  const status = (state?.status ?? 'unknown').replace('MESSAGE_STATUS_', '').toLowerCase();
  if (json) {
    terminal.out(
      JSON.stringify({
        server_message_id: id,
        client_message_id: state?.clientMessageId,
        status,
        accepted_at: state?.acceptedAt,
        delivered_at: state?.deliveredAt,
        read_at: state?.readAt,
        failed_at: state?.failedAt,
        code: state?.code || undefined,
        receiver_id: state?.receiverId || undefined,
      }),
    );
    return;
  }
  const since = state?.failedAt ?? state?.readAt ?? state?.deliveredAt ?? state?.acceptedAt;
  terminal.out(
    `${id} ${status}${since === undefined ? '' : ` since ${since}`}${state?.code ? ` (${state.code})` : ''}`,
  );
}
