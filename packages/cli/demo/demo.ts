import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { History } from '@chatmesh/sdk/testing';
import { createUsers } from '../commands/user.js';
import { CommandError, edgeFailure, exitCodes } from '../failure.js';
import type { Terminal } from '../terminal.js';
import { Person } from './person.js';
import { JsonScreen, type Screen, TextScreen } from './screen.js';
import { readConversations, type Turn, writeScript } from './script.js';

export interface DemoOptions {
  url: string;
  userAddress: string;
  /** How many messages; all that are shipped, once, unless given. */
  messages?: number;
  /** Messages a second; as fast as they go unless given. */
  speed?: number;
  verbose: boolean;
  json: boolean;
}

/** Longer than any of the mesh's own retries on a healthy connection: what has not come by then is missing. */
const patienceMs = 15_000;
/** A confirmation takes effect within a second; a repeat after that is a fault. */
const effectMs = 1100;

/** `demo`: two users, two real WebSockets, one of them away in the middle, and a judgement of all that they saw. */
export async function demoCommand(terminal: Terminal, options: DemoOptions): Promise<void> {
  const screen = options.json ? new JsonScreen(terminal) : new TextScreen(terminal, options.verbose);
  const history = new History();
  const startedMs = performance.now();
  const people: Person[] = [];
  const users = createUsers(terminal, {
    contactNumber: `+1555${String(randomInt(1e8)).padStart(8, '0')}`,
    name: 'Demo',
    count: 2,
    ttl: 3600,
    userAddress: options.userAddress,
  });
  for await (const user of users)
    people.push(new Person(people.length === 0 ? 'Ada' : 'Grace', user, options.url, history));
  const [ada, grace] = people;
  if (ada === undefined || grace === undefined) throw new Error('two users were asked for');
  try {
    await play([ada, grace], screen, options, terminal.signal);
  } catch (error) {
    throw edgeFailure(error, options.url);
  } finally {
    await Promise.all([ada.goOffline(), grace.goOffline()]);
  }
  const report = history.check({ nowMs: performance.now() + effectMs });
  screen.finished(report, Math.round(performance.now() - startedMs));
  if (!report.ok) throw new CommandError(exitCodes.refused, 'The mesh broke a promise.');
}

async function play(
  people: [Person, Person],
  screen: Screen,
  { url, messages, speed }: DemoOptions,
  signal: AbortSignal,
): Promise<void> {
  const [ada, grace] = people;
  const script = writeScript(readConversations(), messages);
  const paceMs = speed === undefined ? 0 : 1000 / speed;
  const all = [...script.together, ...script.away, ...script.reunited];
  screen.began(url, new Set(all.map(({ language }) => language)).size);
  await Promise.all([ada.comeOnline(), grace.comeOnline()]);

  const talk = async (turns: Turn[]): Promise<void> => {
    for (const turn of turns) {
      if (paceMs > 0) await sleep(paceMs, undefined, { signal });
      signal.throwIfAborted();
      const [from, to] = turn.speaker === 0 ? [ada, grace] : [grace, ada];
      const { serverMessageId: id } = await from.chat.send({ to: to.userId, text: turn.text });
      await until(to, () => to.has(id));
      to.chat.markRead(id);
      if (turn.sample) await until(from, () => from.heardRead(id));
      screen.turn(turn, from.name, id, turn.sample);
    }
  };

  await talk(script.together);
  await grace.goOffline();
  screen.wentOffline(grace.name);

  const awayMs = performance.now();
  const sending: Promise<string>[] = [];
  for (const turn of script.away) {
    if (paceMs > 0) await sleep(paceMs, undefined, { signal });
    signal.throwIfAborted();
    sending.push(
      ada.chat.send({ to: grace.userId, text: turn.text }).then(({ serverMessageId }) => {
        screen.turn({ ...turn, sample: false }, ada.name, serverMessageId, false);
        return serverMessageId;
      }),
    );
  }
  const meanwhile = await Promise.all(sending);
  screen.sentMeanwhile(ada.name, meanwhile.length, Math.round(performance.now() - awayMs));

  const backMs = performance.now();
  await grace.comeOnline();
  await until(grace, () => meanwhile.every((id) => grace.has(id)));
  screen.cameBack(grace.name, meanwhile.length, Math.round(performance.now() - backMs));
  grace.chat.markRead(meanwhile);

  await talk(script.reunited);
  const allRead = (sender: Person, reader: Person): Promise<void> =>
    until(sender, () => reader.received.every(({ serverMessageId }) => sender.heardRead(serverMessageId)));
  await Promise.all([allRead(ada, grace), allRead(grace, ada)]);

  await sleep(effectMs, undefined, { signal });
  screen.lookedAgain();
  await Promise.all([ada.goOffline(), grace.goOffline()]);
  await Promise.all([ada.comeOnline(), grace.comeOnline()]);
}

/** Waits until a condition on a person holds. Gives up quietly: the judgement names what is missing. */
async function until(person: Person, condition: () => boolean): Promise<void> {
  if (condition()) return;
  let timer: ReturnType<typeof setTimeout> | undefined;
  await new Promise<void>((resolve) => {
    timer = setTimeout(resolve, patienceMs);
    person.onChange = () => {
      if (condition()) resolve();
    };
  });
  clearTimeout(timer);
}
