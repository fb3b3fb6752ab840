/** When users were last seen: of as many as there is room for, and for a limited time. */
export class LastSeen {
  /** The one noted longest ago comes first. */
  readonly #times = new Map<string, number>();
  readonly #maxUsers: number;
  readonly #ttlMs: number;

  constructor({ maxUsers, ttlMs }: { maxUsers: number; ttlMs: number }) {
    this.#maxUsers = maxUsers;
    this.#ttlMs = ttlMs;
  }

  get size(): number {
    return this.#times.size;
  }

  note(userId: string, atMs: number): void {
    this.#times.delete(userId);
    this.#times.set(userId, atMs);
    if (this.#times.size <= this.#maxUsers) return;
    const [oldest] = this.#times.keys();
    if (oldest !== undefined) this.#times.delete(oldest);
  }

  /** Milliseconds since 1970; undefined when never noted, or no longer known. */
  of(userId: string, nowMs: number): number | undefined {
    const atMs = this.#times.get(userId);
    if (atMs === undefined || nowMs - atMs < this.#ttlMs) return atMs;
    this.#times.delete(userId);
    return undefined;
  }
}
