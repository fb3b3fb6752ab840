import { MeshError } from '@chatmesh/mesh';
import type { Host, World } from '../world.js';

/** How an engine treats what it is asked. */
export interface Temper {
  /** It answers nobody, and does nothing, until then (virtual milliseconds). */
  awayUntilMs: number;
  /** Of a thousand requests so many fail before they took effect, after that, or take effect only after they failed. */
  failures: number;
  /** The longest that it takes, milliseconds. */
  slowestMs: number;
}

export const CALM: Temper = { awayUntilMs: 0, failures: 0, slowestMs: 3 };

/** A request that failed may still take effect within so long. */
const LATE_EFFECT_MS = 3_000;

/** The way from a process to an engine on another machine, which may fail on the way there, on the way back, or be late. */
export class Remote {
  readonly #host: Host;
  readonly #world: World;
  readonly #temper: Temper;

  constructor(host: Host, temper: Temper) {
    this.#host = host;
    this.#world = host.world;
    this.#temper = temper;
  }

  /**
   * Has `effect` happen at the engine, and resolves with what it returns.
   *
   * @throws MeshError `unavailable`, whether it took effect, will, or not.
   */
  call<T>(effect: () => T): Promise<T> {
    const { random } = this.#world;
    const { failures, awayUntilMs } = this.#temper;
    const wayMs = this.wayMs();
    const away = this.#world.nowMs < awayUntilMs;
    if (away || random.below(1000) < failures) {
      const how = away ? 'lost' : random.among(['lost', 'unanswered', 'late'] as const);
      if (how === 'unanswered') this.#world.after(wayMs, effect);
      if (how === 'late') this.#world.after(random.below(LATE_EFFECT_MS), effect);
      return this.#fail(2 * wayMs, new MeshError('unavailable', 'simulated: the engine did not answer'));
    }
    return new Promise((resolve) => {
      this.#world.after(wayMs, () => {
        const result = effect();
        this.#host.after(this.wayMs(), () => resolve(result));
      });
    });
  }

  wayMs(): number {
    return this.#world.random.fraction() * this.#temper.slowestMs;
  }

  #fail<T>(afterMs: number, error: MeshError): Promise<T> {
    return new Promise((_, reject) => {
      this.#host.after(afterMs, () => reject(error));
    });
  }
}
