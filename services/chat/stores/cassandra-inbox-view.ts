import type { Position } from './message-log.js';

/** Timestamps of rows are multiples of this, microseconds; those in between are for deletions. */
export const ROW_STEP_US = 1000;

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
 * may stay, and it is hardly younger than the youngest of them: a row that another owner of the user was still writing
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

  /**
   * What removes these rows, which count as gone from now on, and where there may be more of them: a row may be in several
   * weeks, and one that is known nowhere may be what an earlier removal failed to remove.
   */
  remove(positions: readonly Position[]): { deletions: Deletion[]; unsure: Map<number, Position[]> } {
    const gone = new Set(positions);
    const anywhere = new Set<Position>();
    const deletions: Deletion[] = [];
    const foundIn = new Map<WeekView, Set<Position>>();
    for (const week of this.weeks.values()) {
      const found = new Set<Position>();
      deletions.push(...week.remove(gone, found));
      foundIn.set(week, found);
      for (const position of found) anywhere.add(position);
    }
    const unsure = new Map<number, Position[]>();
    for (const [week, found] of foundIn) {
      const missing = positions.filter((p) => !found.has(p) && !(anywhere.has(p) && week.covers(p)));
      if (missing.length > 0) unsure.set(week.week, missing);
    }
    return { deletions, unsure };
  }
}

/** One week of it: rows that are known, and a range of positions in which there are no others. */
export class WeekView {
  readonly week: number;
  /** In order. */
  known: KnownRow[] = [];
  /** Every row behind `from` ('' is the start of the week) up to `through` is known. */
  #from: Position = '';
  #through: Position = '';
  /** Whether those behind `through` are known as well. */
  #complete = false;
  /** The timestamp of the youngest row removed so far, and that of the last deletion. */
  #youngestUs = 0;
  #deletionUs = 0;

  constructor(week: number) {
    this.week = week;
  }

  note({ position, atUs }: Omit<Note, 'week'>): void {
    const at = this.#countBelow(position);
    const row = this.known[at];
    if (row?.position === position) row.atUs = Math.max(row.atUs, atUs);
    else this.known.splice(at, 0, { position, atUs });
  }

  /** Rows were read: all that follow `after` up to the last of them, or up to the end of the week if `all`. */
  read(after: Position, rows: readonly Omit<Note, 'week'>[], all: boolean): void {
    for (const row of rows) this.note(row);
    const through = rows.at(-1)?.position ?? after;
    const joins = after < this.#from ? all || through >= this.#from : after <= this.#through || this.#complete;
    if (joins) {
      if (after < this.#from) this.#from = after;
      if (through > this.#through) this.#through = through;
      this.#complete ||= all;
    } else {
      // What lies between is not known.
      this.#from = after;
      this.#through = through;
      this.#complete = all;
    }
  }

  /** Where the first row after `after` is, or behind which one may be; undefined when there is none. */
  nextOf(after: Position): Position | undefined {
    if (after < this.#from || (after > this.#through && !this.#complete)) return after;
    const next = this.known.at(this.#countThrough(after))?.position;
    if (this.#complete || (next !== undefined && next <= this.#through)) return next;
    return this.#through;
  }

  /** Whether it would be known if there were a row. */
  covers(position: Position): boolean {
    return position > this.#from && (position <= this.#through || this.#complete);
  }

  /** Takes the rows of `gone` out of what is known, adds them to `found`, and says what removes them from the table. */
  remove(gone: ReadonlySet<Position>, found: Set<Position>): Deletion[] {
    const deletions: Deletion[] = [];
    const staying: KnownRow[] = [];
    let run: KnownRow[] = [];
    const close = () => {
      const [first, last] = [run[0], run.at(-1)];
      if (!first || !last) return;
      const atUs = this.#deletionAfter(Math.max(...run.map((row) => row.atUs)));
      const leads = this.#from === '' && staying.length === 0 && this.#wasRead(last.position);
      deletions.push({ week: this.week, from: leads ? undefined : first.position, through: last.position, atUs });
      run = [];
    };
    for (const row of this.known) {
      if (!gone.has(row.position)) {
        close();
        staying.push(row);
        continue;
      }
      found.add(row.position);
      if (!this.#wasRead(row.position)) close();
      run.push(row);
      // Outside of what was read there may be rows in between.
      if (!this.#wasRead(row.position)) close();
    }
    close();
    this.known = staying;
    return deletions;
  }

  /**
   * The timestamp of the next deletion, younger than the last one: one that spans it replaces it, so that ranges do not pile up.
   * It stays below that of any row younger than those removed: see {@link ROW_STEP_US}.
   */
  #deletionAfter(rowUs: number): number {
    this.#youngestUs = Math.max(this.#youngestUs, rowUs);
    const next = Math.max(this.#deletionUs, rowUs) + 1;
    this.#deletionUs = Math.min(next, this.#youngestUs + ROW_STEP_US - 1);
    return this.#deletionUs;
  }

  #wasRead(position: Position): boolean {
    return position > this.#from && position <= this.#through;
  }

  /** How many known rows lie before a position: where it is, or would be. */
  #countBelow(position: Position): number {
    let low = 0;
    let high = this.known.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.known[middle] as KnownRow).position < position) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #countThrough(position: Position): number {
    const below = this.#countBelow(position);
    return this.known[below]?.position === position ? below + 1 : below;
  }
}
