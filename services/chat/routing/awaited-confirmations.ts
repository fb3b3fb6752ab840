import type { ConfirmationEvent } from '@chatmesh/gen/chat/v1/log';
import { MeshError } from '@chatmesh/mesh';

type Listener = (refusal: MeshError | undefined) => void;

/** Calls that wait until what they have put on the log is recorded; as many as there are calls in flight. */
export class AwaitedConfirmations {
  readonly #waiting = new Map<string, Set<Listener>>();

  /** Begins to wait; before the confirmation is on the log, since it may be recorded before its publisher hears of it. */
  expect(
    userId: string,
    confirmation: ConfirmationEvent,
  ): { readonly recorded: Promise<MeshError | undefined>; readonly forget: () => void } {
    const key = keyOf(userId, confirmation);
    const listeners = this.#waiting.get(key) ?? new Set();
    this.#waiting.set(key, listeners);
    let forget = () => {};
    const recorded = new Promise<MeshError | undefined>((resolve) => {
      listeners.add(resolve);
      forget = () => {
        listeners.delete(resolve);
        if (listeners.size === 0 && this.#waiting.get(key) === listeners) this.#waiting.delete(key);
      };
    });
    return { recorded, forget };
  }

  /** A confirmation from the log is recorded, or was refused by a store; one that says the same is as good. */
  tell(userId: string, confirmation: ConfirmationEvent, refusal: unknown): void {
    if (this.#waiting.size === 0) return;
    const error =
      refusal === undefined
        ? undefined
        : new MeshError('internal', 'a confirmation was not recorded', { cause: refusal });
    for (const listener of this.#waiting.get(keyOf(userId, confirmation)) ?? []) listener(error);
  }
}

function keyOf(userId: string, { deviceId, status, ids }: ConfirmationEvent): string {
  return [userId, deviceId, status, ...ids].join();
}
