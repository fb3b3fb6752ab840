import { formatReport, History } from '@chatmesh/sdk/testing';
import { type Manner, SimulatedDevice } from './device.js';
import { CALM } from './engines/remote.js';
import { type EdgeNode, type RouterNode, SimulatedMesh, uuidOf } from './mesh.js';
import { World } from './world.js';

type Engine = keyof SimulatedMesh['temper'];

/** What happens next, so long after what happened before. Numbers count round where there are fewer of what they name. */
export type Step = { readonly afterMs: number } & (
  | { readonly kind: 'send'; readonly device: number; readonly to: number; readonly count: number }
  | { readonly kind: 'online'; readonly device: number }
  | { readonly kind: 'offline'; readonly device: number; readonly properly: boolean }
  | { readonly kind: 'manner'; readonly device: number; readonly manner: Manner }
  | { readonly kind: 'newDevice'; readonly user: number }
  | { readonly kind: 'kill'; readonly node: number; readonly forMs: number }
  | { readonly kind: 'stop'; readonly node: number; readonly forMs: number }
  | { readonly kind: 'stall'; readonly edge: number; readonly router: number; readonly forMs: number }
  | { readonly kind: 'cut'; readonly edge: number; readonly router: number }
  | { readonly kind: 'move'; readonly partition: number }
  | { readonly kind: 'away'; readonly engine: Engine; readonly forMs: number }
  | { readonly kind: 'failing'; readonly engine: Engine; readonly perMille: number; readonly forMs: number }
  | { readonly kind: 'clock'; readonly node: number; readonly byMs: number }
);

/** One history: the same plan with the same seed happens in the same way. */
export interface Plan {
  readonly seed: number;
  readonly users: number;
  /** Of each user at the beginning. */
  readonly devices: number;
  readonly routers: number;
  readonly edges: number;
  readonly steps: readonly Step[];
}

export interface Verdict {
  /** Why the run is bad; undefined where it is good. */
  readonly fault: string | undefined;
  readonly events: number;
  /** Equal for runs that went alike. */
  readonly trace: number;
}

/** When all faults are over, everything has to arrive within this, virtual milliseconds: the longest wait of the product is for a minute. */
const SETTLE_MS = 180_000;
/** What is sent again in vain would come in that time. */
const AFTERMATH_MS = 15_000;
/** So long after a fault without a length of its own it may still be felt: until a partition has another owner. */
const FELT_MS = 8_000;

/** Runs a plan, ends its faults, and judges what the clients saw. */
export async function run(plan: Plan, onTold?: (text: string) => void): Promise<Verdict> {
  const world = new World(plan.seed);
  world.onTold = onTold;
  using _installed = world.install();
  return await new Run(world, plan).verdict();
}

class Run {
  readonly #world: World;
  readonly #plan: Plan;
  readonly #mesh: SimulatedMesh;
  readonly #history: History;
  readonly #devices: SimulatedDevice[] = [];
  readonly #users: string[] = [];

  constructor(world: World, plan: Plan) {
    this.#world = world;
    this.#plan = plan;
    this.#history = new History(() => world.nowMs);
    this.#mesh = new SimulatedMesh(world, plan);
    for (let i = 0; i < plan.users; i++) {
      const userId = uuidOf(world);
      const deviceIds = Array.from({ length: plan.devices }, () => uuidOf(world));
      this.#users.push(userId);
      this.#mesh.addUser(userId, deviceIds);
      for (const id of deviceIds) this.#devices.push(new SimulatedDevice(this.#mesh, this.#history, userId, id));
    }
  }

  async verdict(): Promise<Verdict> {
    const world = this.#world;
    await world.run(500);
    for (const step of this.#plan.steps) {
      await world.run(step.afterMs);
      this.#take(step);
    }
    this.#heal();
    const quiet = await world.run(SETTLE_MS, () => this.#quiet());
    const waiting = quiet ? '' : this.#waiting();
    await world.run(AFTERMATH_MS);
    // Whoever connects anew gets nothing that was confirmed.
    for (const device of this.#devices) device.goOffline(true);
    await world.run(AFTERMATH_MS);
    for (const device of this.#devices) device.goOnline();
    await world.run(AFTERMATH_MS);
    const report = this.#history.check();
    const faults = [
      ...(quiet ? [] : [`not everything had arrived ${SETTLE_MS} ms after the last fault:\n${waiting}`]),
      ...world.crashes,
      ...(report.ok ? [] : [formatReport(report)]),
    ];
    return {
      fault: faults.length > 0 ? faults.join('\n') : undefined,
      events: world.events,
      trace: world.trace,
    };
  }

  #quiet(): boolean {
    return (
      this.#devices.every((device) => device.settled && device.caughtUp) &&
      this.#mesh.log.backlog === 0 &&
      this.#mesh.inbox.size === 0
    );
  }

  #waiting(): string {
    const devices = this.#devices.filter((device) => !device.settled || !device.caughtUp);
    return [
      ...devices.map(
        (device) =>
          `device ${device.deviceId} of ${device.userId}: ${device.caughtUp ? 'no answers' : 'not caught up'}`,
      ),
      `on the log: ${this.#mesh.log.backlog}\n${this.#mesh.log.describe()}`,
      `in inboxes: ${this.#mesh.inbox.size}`,
      ...this.#mesh.edges.map(({ name, table }) => `${name}: routers ${JSON.stringify(table.routers.reach)}`),
      ...this.#mesh.routers.flatMap((node) =>
        this.#users.flatMap((userId) => {
          const actor = node.router.owner.actor(userId)?.describe();
          const devices = actor?.devices.map(({ id, state, session, waitsFor, window }) => {
            const at = session
              ? `${session.link.edgeId.slice(0, 8)}/${session.number} ${session.ready ? 'ready' : 'attaching'}`
              : '';
            return `${id.slice(0, 8)} ${state} ${at} ${window.size} unconfirmed; waits for ${waitsFor}`;
          });
          return actor
            ? [`${node.address} has ${userId}: waits for ${actor.waitsFor}\n  ${devices?.join('\n  ')}`]
            : [];
        }),
      ),
    ].join('\n');
  }

  #take(step: Step): void {
    const { network, temper } = this.#mesh;
    if (holdsUp(step)) this.#history.disturbed(('forMs' in step ? step.forMs : 0) + FELT_MS);
    this.#world.tell('plan', () => JSON.stringify(step));
    switch (step.kind) {
      case 'send':
        for (let i = 0; i < step.count; i++)
          this.#device(step.device).send(this.#users[step.to % this.#users.length] as string);
        return;
      case 'online':
        this.#device(step.device).goOnline();
        return;
      case 'offline':
        this.#device(step.device).goOffline(step.properly);
        return;
      case 'manner':
        this.#device(step.device).manner = step.manner;
        return;
      case 'newDevice': {
        const userId = this.#users[step.user % this.#users.length] as string;
        const deviceId = uuidOf(this.#world);
        this.#mesh.register(userId, deviceId, () => {
          const device = new SimulatedDevice(this.#mesh, this.#history, userId, deviceId);
          this.#devices.push(device);
          device.goOnline();
        });
        return;
      }
      case 'kill':
        this.#kill(this.#node(step.node), step.forMs);
        return;
      case 'stop': {
        const node = this.#node(step.node);
        const { host } = node;
        this.#mesh.stop(node);
        this.#world.after(step.forMs, () => host.resume());
        return;
      }
      case 'stall':
        network.stall(this.#edge(step.edge).host, this.#router(step.router).host, step.forMs);
        return;
      case 'cut':
        network.cut(this.#edge(step.edge).host, this.#router(step.router).host);
        return;
      case 'move':
        this.#mesh.log.move(step.partition);
        return;
      case 'away':
        temper[step.engine].awayUntilMs = this.#world.nowMs + step.forMs;
        return;
      case 'failing':
        temper[step.engine].failures = step.perMille;
        this.#world.after(step.forMs, () => {
          temper[step.engine].failures = 0;
        });
        return;
      case 'clock': {
        const { host } = this.#node(step.node);
        host.wallAheadMs += step.byMs;
        return;
      }
    }
  }

  #kill(node: RouterNode | EdgeNode, forMs: number): void {
    if (node.host.state === 'dead') return;
    this.#mesh.kill(node);
    this.#world.after(forMs, () => {
      if (node.host.state === 'dead') node.start();
    });
  }

  #heal(): void {
    this.#history.disturbed(FELT_MS);
    for (const temper of Object.values(this.#mesh.temper)) Object.assign(temper, CALM);
    for (const node of [...this.#mesh.routers, ...this.#mesh.edges]) {
      node.host.resume();
      if (node.host.state === 'dead') node.start();
    }
    for (const device of this.#devices) {
      device.goOnline();
      device.confirmAll();
    }
  }

  #device(n: number): SimulatedDevice {
    return this.#devices[n % this.#devices.length] as SimulatedDevice;
  }

  #router(n: number): RouterNode {
    return this.#mesh.routers[n % this.#mesh.routers.length] as RouterNode;
  }

  #edge(n: number): EdgeNode {
    return this.#mesh.edges[n % this.#mesh.edges.length] as EdgeNode;
  }

  #node(n: number): RouterNode | EdgeNode {
    const nodes = [...this.#mesh.routers, ...this.#mesh.edges];
    return nodes[n % nodes.length] as RouterNode | EdgeNode;
  }
}

/** Whether a fault may hold up what clients confirm: neither an inbox nor the directory is asked for that. */
function holdsUp(step: Step): boolean {
  if ('engine' in step) return step.engine === 'log' || step.engine === 'statuses';
  return 'forMs' in step || step.kind === 'move' || step.kind === 'cut';
}
