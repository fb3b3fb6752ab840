import type { Position } from './message-log.js';

/** A row that is in an inbox, as far as this process knows. */
interface KnownRow {
  readonly position: Position;
  /** The row's timestamp in the table, microseconds since 1970. */
  atUs: number;
}

/** Removes the rows from `from` (the first one of the week when undefined) through `through` that are as old as `atUs` or older. */
export interface Deletion {
  readonly week: number;
  readonly from: Position | undefined;
  readonly through: Position;
  readonly atUs: number;
}

/** A row on its way into an inbox. */
export interface Note {
  readonly week: number;
  readonly position: Position;
  readonly atUs: number;
}

/**
 * What this process knows of one device's inbox: where a page has to look, and which rows may be removed together.
 *
 * A deletion of a range takes whatever lies in it. So a range spans only rows that were read or written here, none of which
 * may stay, and it carries the timestamp of the youngest of them: a row that another owner of the user was still writing
 * survives it.
 */
export class InboxView {
  /** Weeks that may have rows. Complete once the listing was read. */
  readonly weeks = new Map<number, WeekView>();
  readonly #onTheWay: Set<Note>;
  /** Resolves when {@link weeks} is complete; undefined until somebody asks. */
  loaded: Promise<void> | undefined;
  /** Pages that are being read. */
  reads = 0;
  /** The size with which it counts in the bound of all views. */
  counted = 0;

  /** @param before the view that this one replaces: what is on its way stays on its way. */
  constructor(before?: InboxView) {
    this.#onTheWay = before ? before.#onTheWay : new Set();
    for (const note of this.#onTheWay) this.week(note.week).note(note);
  }

  /** Whether rows are on their way in or out: such a view must not be forgotten. */
  get busy(): boolean {
    return this.#onTheWay.size > 0 || this.reads > 0;
  }

  /** Rows known. */
  get size(): number {
    let size = 1;
    for (const { known } of this.weeks.values()) size += known.length;
    return size;
  }

  week(week: number): WeekView {
    let view = this.weeks.get(week);
    if (!view) {
      view = new WeekView(week);
      this.weeks.set(week, view);
    }
    return view;
  }

  /** Rows are about to be written. */
  begin(notes: readonly Note[]): void {
    for (const note of notes) {
      this.#onTheWay.add(note);
      this.week(note.week).note(note);
    }
  }

  /** They are written, or failed to be. */
  end(notes: readonly Note[]): void {
    for (const note of notes) this.#onTheWay.delete(note);
  }

  /** What removes these rows, and the positions of which nothing is known. The rows count as gone from now on. */
  remove(positions: readonly Position[]): { deletions: Deletion[]; unknown: Position[] } {
    const gone = new Set(positions);
    const found = new Set<Position>();
    const deletions: Deletion[] = [];
    for (const week of this.weeks.values()) deletions.push(...week.remove(gone, found));
    return { deletions, unknown: positions.filter((position) => !found.has(position)) };
  }
}

/** One week of it. */
export class WeekView {
  readonly week: number;
  /** In order. */
  known: KnownRow[] = [];
  /** No row that is still to be read lies before it; undefined when there is none. */
  next: Position | undefined = '';
  /** Every row up to here is known, from the start of the week if `fromStart`, else from the first known one. */
  #through: Position | undefined;
  #fromStart = false;
  /** The youngest timestamp of a row removed: a later deletion that spans an earlier one replaces it. */
  #removedUs = 0;

  constructor(week: number) {
    this.week = week;
  }

  note({ position, atUs }: Omit<Note, 'week'>): void {
    const at = this.#indexOf(position);
    const row = this.known[at];
    if (row?.position === position) row.atUs = Math.max(row.atUs, atUs);
    else this.known.splice(at, 0, { position, atUs });
    if (this.next === undefined || position < this.next) this.next = position;
  }

  /** Rows were read: all that follow `after`, up to the last of them. */
  read(after: Position, rows: readonly Omit<Note, 'week'>[]): void {
    if (after === '') this.#fromStart = true;
    else if (this.#through === undefined || after > this.#through) {
      // What lies between is not known: no deletion may span it.
      this.#fromStart = false;
      this.known = this.known.slice(this.#indexOf(after));
    }
    for (const row of rows) this.note(row);
    const last = rows.at(-1)?.position ?? after;
    if (this.#through === undefined || last > this.#through) this.#through = last;
  }

  /** What is left to be read after `after`; `all` says that nothing unknown is. */
  advance(after: Position, all: boolean): void {
    const at = this.#indexOf(after);
    const row = this.known[at]?.position === after ? this.known[at + 1] : this.known[at];
    this.next = row?.position ?? (all ? undefined : after);
  }

  /** Takes the rows of `gone` out of what is known, adds them to `found`, and says what removes them from the table. */
  remove(gone: ReadonlySet<Position>, found: Set<Position>): Deletion[] {
    const deletions: Deletion[] = [];
    const staying: KnownRow[] = [];
    let run: KnownRow[] = [];
    const close = () => {
      const [first, last] = [run[0], run.at(-1)];
      if (!first || !last) return;
      const youngest = Math.max(...run.map((row) => row.atUs));
      this.#removedUs = Math.max(this.#removedUs, youngest);
      const leads = this.#fromStart && staying.length === 0 && last.position <= (this.#through ?? '');
      deletions.push({
        week: this.week,
        from: leads ? undefined : first.position,
        through: last.position,
        atUs: leads ? this.#removedUs : youngest,
      });
      run = [];
    };
    for (const row of this.known) {
      if (!gone.has(row.position)) {
        close();
        staying.push(row);
        continue;
      }
      found.add(row.position);
      // Beyond what was read there may be rows in between.
      if (run.length > 0 && row.position > (this.#through ?? '')) close();
      run.push(row);
    }
    close();
    this.known = staying;
    return deletions;
  }

  /** Where a position is, or would be. */
  #indexOf(position: Position): number {
    let low = 0;
    let high = this.known.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.known[middle] as KnownRow).position < position) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
