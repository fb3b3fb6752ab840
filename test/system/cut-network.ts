import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

/** Where a program in such a network listens, and what its clients see. */
export const HERE = '10.77.0.1';
const THERE = '10.77.0.2';

/**
 * Two networks and a wire between them: the program's own, and one for its clients, whose process id the program is given. Both are gone with
 * the program.
 */
const SCRIPT = `
  ip link set lo up
  unshare -n sleep 600 & there=$!
  trap 'kill $there' EXIT
  while [ "$(readlink /proc/$there/ns/net)" = "$(readlink /proc/$$/ns/net)" ]; do sleep 0.01; done
  ip link add here type veth peer name there netns $there &&
  ip addr add ${HERE}/24 dev here && ip link set here up &&
  nsenter -t $there -n ip addr add ${THERE}/24 dev there && nsenter -t $there -n ip link set there up &&
  "$@" $there
`;

/**
 * Runs a program with a network of its own and returns the JSON of the last line that it wrote.
 *
 * @throws Error saying what is needed when there is no such network to be had.
 */
export async function runWithNetwork(program: string): Promise<unknown> {
  const namespaces = process.getuid?.() === 0 ? '-n' : '-Urn';
  const command = ['sh', '-c', SCRIPT, 'sh', process.execPath, fileURLToPath(program)];
  const run = promisify(execFile)('unshare', [namespaces, ...command], { maxBuffer: 2 ** 26 });
  const { stdout } = await run.catch((error) => {
    if (error.code !== 'ENOENT' && !/^(unshare|nsenter|RTNETLINK answers): |: not found$/m.test(error.stderr))
      throw new Error(`the program ended with ${error.signal ?? error.code}: ${error.stdout}${error.stderr}`);
    throw new Error(
      `this test cuts a network of its own: it needs Linux, unshare, nsenter and ip (on Debian: apt-get install -y util-linux iproute2), and the right to use them, as root or in a user namespace (${error.stderr || error.message})`,
    );
  });
  return JSON.parse(stdout.trim().split('\n').at(-1) as string);
}

const run = promisify(execFile);

/** In such a program: the clients' side of the wire. */
export class OtherSide {
  readonly #within = ['-t', process.argv.at(-1) as string, '-n'];

  /** What becomes the command that follows it, there. */
  command(...command: string[]): [string, string[]] {
    return ['nsenter', [...this.#within, ...command]];
  }

  /** Nothing passes from now on, and nobody is told. */
  async cut(): Promise<void> {
    await run(...this.command('ip', 'link', 'set', 'there', 'down'));
  }
}
