/**
 * The newest ids that were seen, each with its state. Bounded: the server repeats only what is unconfirmed, which is at
 * most 256 per device, so the default is generous.
 */
export class Seen<State> {
  readonly #states = new Map<string, State>();

  constructor(readonly capacity = 10_000) {}

  get(id: string): State | undefined {
    return this.#states.get(id);
  }

  set(id: string, state: State): void {
    this.#states.set(id, state);
    if (this.#states.size > this.capacity) {
      // A Map iterates in the order of insertion, so this is the oldest.
      for (const oldest of this.#states.keys()) {
        this.#states.delete(oldest);
        break;
      }
    }
  }

  forget(id: string): void {
    this.#states.delete(id);
  }
}
