type Handler<T> = (value: T) => unknown;

/** A typed set of event handlers. */
export class Emitter<Events extends object> {
  readonly #handlers = new Map<keyof Events, Set<Handler<never>>>();

  /** Adds a handler; call the result to remove it. */
  on<K extends keyof Events>(name: K, handler: Handler<Events[K]>): () => void {
    let handlers = this.#handlers.get(name);
    if (handlers === undefined) {
      handlers = new Set();
      this.#handlers.set(name, handlers);
    }
    handlers.add(handler);
    return () => {
      handlers.delete(handler);
    };
  }

  has(name: keyof Events): boolean {
    return (this.#handlers.get(name)?.size ?? 0) > 0;
  }

  /**
   * Runs the handlers in the order in which they were added. Returns undefined when all have finished, or a promise
   * of it when some return promises; a handler's error is thrown, or rejects.
   */
  emit<K extends keyof Events>(name: K, value: Events[K]): Promise<unknown> | undefined {
    let pending: unknown[] | undefined;
    for (const handler of this.#handlers.get(name) ?? []) {
      const result = (handler as Handler<Events[K]>)(value);
      if (result instanceof Promise) {
        pending ??= [];
        pending.push(result);
      }
    }
    return pending === undefined ? undefined : Promise.all(pending);
  }
}
