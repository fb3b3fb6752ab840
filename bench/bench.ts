import type { RealEngines } from './engines.js';
import { type Server, type StartOptions, startServer, type TargetName } from './targets.js';

/** How long and how much; `--quick` and `--full` choose. */
export interface Scale {
  warmUpMs: number;
  measureMs: number;
  /** Repetitions, alternating between the targets; the median counts. */
  rounds: number;
  latencyRounds: number;
  /** Each with another recipient. The median leaves the cold first one out. */
  drainRounds: number;
  idleConnections: number;
  /** Each on a new server. */
  idleRounds: number;
  /** Messages that the store takes before the cost per message is measured again. */
  storedMessages: number;
  /** Users that are known when the cost per message is measured again. */
  knownUsers: number;
  /** Length of the run at half load; 0 leaves it out. */
  soakMs: number;
}

/** One line of the table. */
export interface Row {
  measure: string;
  unit: string;
  values: Partial<Record<TargetName, number>>;
  /** What is to be reached, and whether it was. */
  goal?: { text: string; reached: boolean };
}

/** What a scenario found: lines for the table, and everything measured for the JSON. */
export interface Outcome {
  rows: Row[];
  raw: unknown;
}

export type Scenario = (bench: Bench) => Promise<Outcome>;

/** What scenarios work with. */
export class Bench {
  readonly scale: Scale;
  readonly targets: TargetName[];
  /** Undefined unless the mesh is measured on them. */
  readonly engines: RealEngines | undefined;
  readonly #profileDirectory: string | undefined;
  readonly #before: string | undefined;
  readonly #profiles: string[] = [];

  constructor(
    scale: Scale,
    targets: TargetName[],
    options: {
      engines?: RealEngines | undefined;
      profileDirectory?: string | undefined;
      before?: string | undefined;
    } = {},
  ) {
    this.engines = options.engines;
    this.scale = scale;
    this.targets = targets;
    this.#profileDirectory = options.profileDirectory;
    this.#before = options.before;
  }

  /** The CPU profiles written so far. */
  get profiles(): readonly string[] {
    return this.#profiles;
  }

  /** The targets whose `delivered` receipts come through: those that the mesh is compared with. */
  get reporting(): TargetName[] {
    return this.targets.filter((target) => target !== 'baseline-no-receipts');
  }

  /** Starts a server for a scenario; with `--profile` it leaves a profile named after both. */
  start(target: TargetName, scenario: string, options: StartOptions = {}): Promise<Server> {
    const profile = this.#profileDirectory && `${this.#profileDirectory}/${target}-${scenario}.cpuprofile`;
    if (profile) this.#profiles.push(profile);
    return startServer(target, { ...options, profile, engines: this.engines?.env, before: this.#before });
  }

  /** Runs `use` with one server per target, all alive at the same time so that runs can alternate. */
  async withServers<T>(targets: TargetName[], scenario: string, use: (servers: Server[]) => Promise<T>): Promise<T> {
    const [target, ...others] = targets;
    if (target === undefined) return use([]);
    await using server = await this.start(target, scenario);
    return await this.withServers(others, scenario, (servers) => use([server, ...servers]));
  }

  /** Says on standard error what is going on. */
  log(text: string): void {
    console.error(text);
  }
}

/** The middle value, or the mean of the two middle ones; NaN of nothing. */
export function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  return ((sorted[Math.floor(middle)] ?? Number.NaN) + (sorted[Math.ceil(middle)] ?? Number.NaN)) / 2;
}

/** The results of a measurement's rounds, by target. */
export type Rounds<T> = Map<TargetName, T[]>;

/** Measures every server once a round, in turn, so that a noisy minute of the machine hits all of them. */
export async function alternate<T>(
  servers: Server[],
  rounds: number,
  measure: (server: Server) => Promise<T>,
): Promise<Rounds<T>> {
  const results: Rounds<T> = new Map(servers.map(({ target }) => [target, []]));
  for (let round = 0; round < rounds; round++) {
    for (const server of servers) results.get(server.target)?.push(await measure(server));
  }
  return results;
}

/** The medians of a figure over the rounds, by target. */
export function medians<T>(rounds: Rounds<T>, figure: (result: T) => number): Row['values'] {
  return Object.fromEntries(Array.from(rounds, ([target, results]) => [target, median(results.map(figure))]));
}

/** A goal for mesh over baseline, with receipts and without where both were measured; none unless the mesh was. */
export function ratioGoal(values: Row['values'], limit: { atLeast: number } | { atMost: number }): Pick<Row, 'goal'> {
  const { mesh, 'mesh-before': _before, ...baselines } = values;
  const ratios = Object.values(baselines).map((baseline) => (mesh ?? Number.NaN) / baseline);
  if (mesh === undefined || ratios.length === 0) return {};
  const which = ratios.length > 1 ? 'both baselines' : 'the baseline';
  return 'atLeast' in limit
    ? { goal: { text: `at least ${limit.atLeast} of ${which}`, reached: ratios.every((r) => r >= limit.atLeast) } }
    : { goal: { text: `at most ${limit.atMost} times ${which}`, reached: ratios.every((r) => r <= limit.atMost) } };
}
