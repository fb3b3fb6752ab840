/**
 * Live sessions, and when users were last seen. Ids are UUIDs in lower case; times are milliseconds since 1970. No promise
 * about messages depends on it: what is lost here, the edges report again. Every method throws MeshError `unavailable`
 * when the engine cannot be reached.
 */
export interface PresenceStore extends AsyncDisposable {
  /** False while the engine does not answer. */
  readonly ready: boolean;

  /**
   * Renews the lease of an edge and takes what has changed there: first what began, then what ended. Repeating a
   * report changes nothing.
   *
   * @returns known: false when the store has no live lease of the edge, or wants everything again, and the report is not
   * a full one; then nothing was taken, and the edge must report in full.
   */
  report(report: EdgeReport): Promise<{ known: boolean }>;

  /** The sessions of these users at edges whose lease lives, in no particular order. */
  sessionsOf(userIds: readonly string[]): Promise<LiveSession[]>;

  /**
   * When each user's last session ended: by its close, or, where its edge's lease ran out, with the edge's last report.
   * Without those who are online and those of whom it is not known; it is kept for a bounded time and number of users.
   */
  lastSeen(userIds: readonly string[]): Promise<Map<string, number>>;

  /**
   * Calls `onChange` soon after a session of the user has been reported to begin or to end, through whichever process, until the
   * function that this resolves with is called; also when nothing has changed, and when a change may have been missed. It says that it is worth
   * asking, not what has changed. That an edge's lease has run out nobody reports: who has to know it asks when it would.
   */
  watch(userId: string, onChange: () => void): Promise<() => void>;
}

export interface EdgeReport {
  readonly edgeId: string;
  /** How long the edge's sessions count as live without another report, in milliseconds. */
  readonly leaseMs: number;
  /** True when `opened` is all that the edge has; `closed` is then empty. */
  readonly full: boolean;
  readonly opened: readonly EdgeSession[];
  readonly closed: readonly EdgeSession[];
}

export interface EdgeSession {
  readonly userId: string;
  readonly deviceId: string;
  /** The edge's number of the session, a whole number of 32 bits. */
  readonly session: number;
}

export interface LiveSession extends EdgeSession {
  readonly edgeId: string;
}
