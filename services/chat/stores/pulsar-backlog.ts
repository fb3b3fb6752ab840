import { type Logger, type Metrics, toMeshError } from '@chatmesh/mesh';
import type { PulsarAdmin } from '@chatmesh/mesh/pulsar';
import { exposeBacklog } from './backlog.js';
import { SUBSCRIPTION } from './pulsar-message-log.js';

const ASK_EVERY_MS = 15_000;

/** Asks Pulsar's admin interface how much waits on the topics, and exposes it; where it does not answer, nothing. */
export class PulsarBacklog {
  readonly #admin: Pick<PulsarAdmin, 'backlog'>;
  /** Full name of the topic by short name. */
  readonly #topics: Readonly<Record<string, string>>;
  readonly #logger: Logger;
  readonly #timer: NodeJS.Timeout;
  readonly #backlogs = new Map<string, number>();
  #away = false;

  constructor(options: {
    admin: Pick<PulsarAdmin, 'backlog'>;
    topics: Readonly<Record<string, string>>;
    logger: Logger;
    metrics: Metrics;
  }) {
    this.#admin = options.admin;
    this.#topics = options.topics;
    this.#logger = options.logger;
    exposeBacklog(options.metrics, () => this.#backlogs);
    this.#timer = setInterval(() => void this.ask(), ASK_EVERY_MS).unref();
    void this.ask();
  }

  /** Asks once. Never fails. */
  async ask(): Promise<void> {
    try {
      for (const [name, topic] of Object.entries(this.#topics))
        this.#backlogs.set(name, await this.#admin.backlog(topic, SUBSCRIPTION));
      this.#away = false;
    } catch (error) {
      // An old number would look like a log that stands still.
      this.#backlogs.clear();
      if (!this.#away) this.#logger.warn({ reason: toMeshError(error).message }, "the log's backlog is not known");
      this.#away = true;
    }
  }

  close(): void {
    clearInterval(this.#timer);
  }
}
