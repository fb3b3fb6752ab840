/** A session as its edge announces it. */
export interface AnnouncedSession {
  readonly edgeId: string;
  /** The edge's number of the session; a later session of the same edge has a higher one. */
  readonly session: number;
  /** What an owner has given it, else when it began, milliseconds since 1970. */
  readonly order: number;
  /** No owner has given it an order, and it has only just begun. */
  readonly isNew: boolean;
}

/** A session that an owner has attached. */
export type OrderedSession = Omit<AnnouncedSession, 'isNew'>;

/**
 * A session is announced in the turn of the event loop in which it begins, so one that is older than this, in milliseconds,
 * could not be announced at first, or its edge has stood still since.
 */
const NEW_MS = 100;

/**
 * What an announcement says about a session's place among those of its device.
 *
 * @param order what its edge was told with the last attach; 0 before the first
 * @param ageMs how long ago it began, by its edge's monotonic clock: what edges and routers think of the time of day does not matter
 * @param nowMs milliseconds since 1970
 */
export function placeOf(order: number, ageMs: number, nowMs: number): Pick<AnnouncedSession, 'order' | 'isNew'> {
  if (order > 0) return { order, isNew: false };
  return { order: Math.max(1, nowMs - ageMs), isNew: ageMs < NEW_MS };
}

/**
 * Decides which session of a device stays: the one that began last, in whatever sequence edges announce them. Clocks only decide
 * about sessions that no owner has seen; what has just begun is newer than anything, whatever they say.
 *
 * @param present the session that the device has, if any
 * @param highest the highest order known of the device's sessions, ended ones included
 * @returns the order under which the announced session is attached; undefined where the present one is newer.
 */
export function orderBeside(
  announced: AnnouncedSession,
  present: OrderedSession | undefined,
  highest: number,
): number | undefined {
  const { order, isNew } = announced;
  const sameEdge = present?.edgeId === announced.edgeId;
  if (sameEdge && announced.session < present.session) return undefined;
  if (sameEdge || isNew) return Math.max(order, highest + 1);
  return !present || order > present.order ? order : undefined;
}
