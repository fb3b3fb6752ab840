import { printable, readConversations, run, type Terminal, widthOf, writeScript } from '@chatmesh/cli';
import { describe, expect, test } from '@jest/globals';

const id = '0b7e2a3c-5a52-4c7e-9c5e-0d6f6a1b2c3d';
const nobody = { EDGE_PORT: '1', USER_PORT: '1', CHAT_PORT: '1' };

async function call(args: string[], env: Record<string, string> = nobody) {
  const lines = { out: [] as string[], err: [] as string[] };
  const terminal: Terminal = {
    env,
    stdin: process.stdin,
    stdout: process.stdout,
    interactive: false,
    columns: 100,
    out: (line) => lines.out.push(line),
    err: (line) => lines.err.push(line),
    progress: () => undefined,
    signal: new AbortController().signal,
  };
  return { exitCode: await run(args, terminal), out: lines.out.join('\n'), err: lines.err.join('\n') };
}

/** In form only. */
const token = `e30.${Buffer.from(JSON.stringify({ sub: id })).toString('base64url')}.x`;

describe('the command line', () => {
  test.each([
    ['an unknown command', ['fly']],
    ['an unknown option', ['demo', '--fast']],
    ['no token', ['tail']],
    ['a contact number without its plus', ['user', 'create', '--contact-number', '15550100', '--name', 'Ada']],
    ['no name', ['user', 'create', '--contact-number', '+15550100']],
    ['a lifetime without a unit', ['user', 'create', '--contact-number', '+15550100', '--name', 'A', '--ttl', '30']],
    ['a lifetime over a year', ['user', 'create', '--contact-number', '+15550100', '--name', 'A', '--ttl', '367d']],
    ['a receiver that is no UUID', ['send', '--token', token, '--to', 'grace', 'hello']],
    ['a status that nothing has', ['send', '--token', token, '--to', id, '--wait', 'seen', 'hello']],
    ['a token that is no JWT', ['tail', '--token', 'abc']],
    ['an inbox of nobody', ['inbox']],
    ['a status for nobody', ['status', id]],
    ['no messages', ['demo', '--messages', '0']],
    ['an address of another kind', ['demo', '--url', 'ftp://localhost']],
  ])('%s is wrong usage, exit code 2', async (_what, args) => {
    const { exitCode, out, err } = await call(args);
    expect({ exitCode, out }).toEqual({ exitCode: 2, out: '' });
    expect(err).not.toBe('');
  });

  test.each([
    ['demo', ['demo']],
    ['user create', ['user', 'create', '--contact-number', '+15550100', '--name', 'Ada']],
    ['send', ['send', '--token', token, '--to', id, 'hello']],
    ['tail', ['tail', '--token', token]],
    ['chat', ['chat', '--token', token, '--to', id]],
    ['status', ['status', '--token', token, id]],
    ['status --explain', ['status', '--explain', id]],
    ['inbox', ['inbox', '--token', token]],
  ])('%s without a server says in one sentence what to do, exit code 3', async (_name, args) => {
    const { exitCode, out, err } = await call(args);
    expect({ exitCode, out }).toEqual({ exitCode: 3, out: '' });
    expect(err).toMatch(
      /^Nothing answers at [^\n]*: start the mesh with `npm start`, or say where it is with --\S+\.$/,
    );
  });

  test.each([[[]], [['user', 'create']], [['send']], [['tail']], [['chat']], [['status']], [['inbox']], [['demo']]])(
    'help for %j has examples',
    async (command: string[]) => {
      const { exitCode, out } = await call([...command, '--help']);
      expect(exitCode).toBe(0);
      expect(out).toContain('Examples:');
    },
  );

  test('the token may come from the environment, and is not printed in the help', async () => {
    const { exitCode } = await call(['tail'], { ...nobody, CHATMESH_TOKEN: token });
    expect(exitCode).toBe(3);
    const { out } = await call(['tail', '--help'], { ...nobody, CHATMESH_TOKEN: token });
    expect(out).not.toContain(token);
  });
});

describe("the demo's script", () => {
  const conversations = readConversations();

  test('ships short conversations in 28 languages', () => {
    expect(new Set(conversations.map(({ language }) => language)).size).toBe(28);
    for (const { turns } of conversations) {
      expect(turns.length).toBeGreaterThan(1);
      for (const text of turns) expect([...text].length).toBeLessThanOrEqual(1000);
    }
  });

  test('plays everything once, shows two turns of each language, and has at least 100 turns of absence', () => {
    const { together, away, reunited } = writeScript(conversations);
    const all = [...together, ...away, ...reunited];
    expect(all).toHaveLength(conversations.reduce((sum, { turns }) => sum + turns.length, 0));
    expect(away.length).toBeGreaterThanOrEqual(100);
    expect(away.every(({ speaker }) => speaker === 0)).toBe(true);
    expect(together.filter(({ sample }) => sample)).toHaveLength(2 * 28);
  });

  test.each([1, 2, 99, 250, 2000])('of %i turns has as many', (count) => {
    const { together, away, reunited } = writeScript(conversations, count);
    expect(together.length + away.length + reunited.length).toBe(count);
  });
});

describe('text in a terminal', () => {
  test.each([
    ['hello', 5],
    ['こんにちは', 10],
    ['안녕', 4],
    ['e\u0301', 1],
    ['👨‍👩‍👧', 2],
    ['שלום', 4],
  ])('%s takes %i columns', (text, columns) => {
    expect(widthOf(text)).toBe(columns);
  });

  test('is cut to its room without halving a character', () => {
    expect(printable('こんにちは', 6)).toBe('こん…');
    expect(printable('hello', 5)).toBe('hello');
  });

  test('cannot move the cursor, colour, or turn the direction of what follows', () => {
    expect(printable('a\u001b[2Jb\u202ec\rd\ne')).toBe('a�[2Jb�c�d ⏎ e');
  });

  test('in a right-to-left script is isolated', () => {
    expect(printable('שלום?')).toBe('\u2068שלום?\u2069');
  });
});
