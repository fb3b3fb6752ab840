/** How far a message of this user has come. It moves only sending, sent, delivered, read, or to failed. */
export type Status = 'sending' | 'sent' | 'delivered' | 'read' | 'failed';

const RANK: Record<Status, number> = { sending: 0, sent: 1, delivered: 2, read: 3, failed: 4 };

/** One message, as this browser keeps it. */
export interface Entry {
  /** In the order of writing and arriving in this browser. */
  readonly seq: number;
  readonly me: string;
  /** Whose conversation it belongs to: the other user, or a group. */
  readonly peer: string;
  readonly mine: boolean;
  readonly text: string;
  /** When it was accepted, by the server's clock; before that when it was written, by this one's. Since 1970. */
  readonly atMs: number;
  /** Of what was written here: made once, kept over retries and reloads. */
  readonly clientMessageId?: string;
  /** Absent until the server has accepted it. */
  readonly serverMessageId?: string;
  /** Of this user's messages. */
  readonly status?: Status;
  /** Why it failed: a code of the wire contract. */
  readonly reason?: string;
  /** Present while it waits to be sent. */
  readonly pending?: 1;
  /** Present until the server knows that it was read. */
  readonly unread?: 1;
}

/** A message that is written here. */
type Draft = Omit<Entry, 'seq'> & Required<Pick<Entry, 'clientMessageId'>>;

/** A message from the server. */
export type Arrival = Required<Pick<Entry, 'peer' | 'mine' | 'text' | 'atMs' | 'serverMessageId'>>;

/** What became of a message of this user. */
export interface Outcome {
  readonly clientMessageId: string;
  /** Empty when it was not accepted. */
  readonly serverMessageId: string;
  readonly status: Status;
  /** Of the acceptance, where this is one. */
  readonly acceptedAtMs?: number;
  readonly reason?: string;
}

/** What a write did; other tabs are told too. */
export interface Change {
  readonly changed: Entry[];
  /** Their seqs. */
  readonly removed: number[];
}

/** A key of the tab's session storage. */
const UNSTORED = 'chatmesh.unstored';
const ENTRIES = 'entries';
/** Keys of the indices; an entry without one of the fields is not in the index. */
const INDICES = {
  client: ['me', 'clientMessageId'],
  server: ['me', 'serverMessageId'],
  conversation: ['me', 'peer'],
  pending: ['me', 'pending'],
  unread: ['me', 'unread'],
} satisfies Record<string, (keyof Entry)[]>;

/**
 * A user's messages in this browser, since the server forgets what it has delivered. A write has reached the disk when
 * its promise resolves, and only then may it be confirmed to the server.
 */
export class Store {
  readonly #database: IDBDatabase;
  readonly #me: string;
  readonly #onChange: (change: Change) => void;
  readonly #otherTabs: BroadcastChannel;

  private constructor(database: IDBDatabase, me: string, onChange: (change: Change) => void) {
    this.#database = database;
    this.#me = me;
    this.#onChange = onChange;
    this.#otherTabs = new BroadcastChannel(`chatmesh ${me}`);
    this.#otherTabs.onmessage = ({ data }) => onChange(data as Change);
  }

  /** `onChange` hears of every write, of other tabs as well. Rejects where the browser keeps nothing. */
  static async open(me: string, onChange: (change: Change) => void): Promise<Store> {
    const opening = indexedDB.open('chatmesh', 1);
    opening.onupgradeneeded = () => {
      const entries = opening.result.createObjectStore(ENTRIES, { keyPath: 'seq', autoIncrement: true });
      for (const [name, fields] of Object.entries(INDICES)) entries.createIndex(name, fields);
    };
    return new Store(await answer(opening), me, onChange);
  }

  /** Stores what this tab's last page was about to when it was left. */
  async recover(): Promise<void> {
    for (const draft of unstored()) if (draft.me === this.#me) await this.#add(draft);
  }

  close(): void {
    this.#otherTabs.close();
    this.#database.close();
  }

  /** The newest messages with a peer that are older than `beforeSeq`, oldest first. */
  async page(peer: string, beforeSeq: number, limit: number): Promise<Entry[]> {
    const found: Entry[] = [];
    const cursor = this.#index('conversation').openCursor([this.#me, peer], 'prev');
    await new Promise<void>((resolve, reject) => {
      cursor.onerror = () => reject(cursor.error);
      cursor.onsuccess = () => {
        const at = cursor.result;
        if (!at || found.length === limit) resolve();
        else if ((at.primaryKey as number) >= beforeSeq) at.continuePrimaryKey([this.#me, peer], beforeSeq - 1);
        else {
          found.push(at.value as Entry);
          at.continue();
        }
      };
    });
    return found.reverse();
  }

  /** The message to send next. */
  nextPending(): Promise<Entry | undefined> {
    return answer(this.#index('pending').get([this.#me, 1]));
  }

  /** Messages that this user has not seen, or has without the server knowing. */
  unread(): Promise<Entry[]> {
    return answer(this.#index('unread').getAll([this.#me, 1]));
  }

  /** Keeps a message to be sent, even if the page is left in this moment. */
  write(peer: string, text: string): Promise<void> {
    const draft = this.#draft(peer, text);
    // The database gives up what a page that goes away has begun to write; this is written at once and survives a reload.
    keepUnstored([...unstored(), draft]);
    return this.#add(draft);
  }

  /** Sends a failed message anew: as another message, since the server has settled the first. */
  retry({ seq, peer, text }: Entry): Promise<void> {
    return this.#write(async (tables) => {
      if (await tables.remove(seq)) await tables.add(this.#draft(peer, text));
    });
  }

  /** Keeps what the server sent, all or nothing. What is here already stays as it is. */
  receive(arrivals: readonly Arrival[], outcomes: readonly Outcome[]): Promise<void> {
    return this.#write(async (tables) => {
      for (const arrival of arrivals) {
        if (await tables.find('server', arrival.serverMessageId)) continue;
        const mark = arrival.mine ? { status: 'sent' as const } : { unread: 1 as const };
        await tables.add({ me: this.#me, ...arrival, ...mark });
      }
      for (const outcome of outcomes) await settle(tables, outcome);
    });
  }

  /** Notes what became of a message. A status never moves back. */
  settle(outcome: Outcome): Promise<void> {
    return this.#write((tables) => settle(tables, outcome));
  }

  /** The server knows that these were read. */
  markRead(serverMessageIds: readonly string[]): Promise<void> {
    return this.#write(async (tables) => {
      for (const id of serverMessageIds) {
        const entry = await tables.find('server', id);
        if (!entry?.unread) continue;
        const { unread: _, ...read } = entry;
        await tables.put(read);
      }
    });
  }

  /** Stores what was written, once. */
  async #add(draft: Draft): Promise<void> {
    try {
      await this.#write(async (tables) => {
        if (!(await tables.find('client', draft.clientMessageId))) await tables.add(draft);
      });
    } finally {
      keepUnstored(unstored().filter(({ clientMessageId }) => clientMessageId !== draft.clientMessageId));
    }
  }

  #draft(peer: string, text: string): Draft {
    const clientMessageId = crypto.randomUUID();
    return { me: this.#me, peer, mine: true, text, atMs: Date.now(), clientMessageId, status: 'sending', pending: 1 };
  }

  #index(name: keyof typeof INDICES): IDBIndex {
    return this.#database.transaction(ENTRIES).objectStore(ENTRIES).index(name);
  }

  async #write(work: (tables: Tables) => Promise<unknown>): Promise<void> {
    const transaction = this.#database.transaction(ENTRIES, 'readwrite', { durability: 'strict' });
    const done = new Promise<void>((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error ?? new Error('the write was given up'));
    });
    const tables = new Tables(transaction.objectStore(ENTRIES), this.#me);
    // Waited for together: a request that fails aborts the transaction, too.
    await Promise.all([done, work(tables)]);
    const { change } = tables;
    if (change.changed.length + change.removed.length === 0) return;
    this.#otherTabs.postMessage(change);
    this.#onChange(change);
  }
}

/** The entries within one transaction, and what it changes. */
class Tables {
  readonly change: Change = { changed: [], removed: [] };

  constructor(
    private readonly entries: IDBObjectStore,
    private readonly me: string,
  ) {}

  find(index: 'client' | 'server', id: string): Promise<Entry | undefined> {
    return answer(this.entries.index(index).get([this.me, id]));
  }

  async add(entry: Omit<Entry, 'seq'>): Promise<void> {
    const seq = (await answer(this.entries.add(entry))) as number;
    this.change.changed.push({ ...entry, seq });
  }

  async put(entry: Entry): Promise<void> {
    await answer(this.entries.put(entry));
    this.change.changed.push(entry);
  }

  /** False when it was gone already, for example by another tab. */
  async remove(seq: number): Promise<boolean> {
    if ((await answer(this.entries.count(seq))) === 0) return false;
    await answer(this.entries.delete(seq));
    this.change.removed.push(seq);
    return true;
  }
}

async function settle(tables: Tables, outcome: Outcome): Promise<void> {
  const { clientMessageId, serverMessageId, status, acceptedAtMs, reason } = outcome;
  const accepted = serverMessageId === '' ? undefined : await tables.find('server', serverMessageId);
  const entry = (await tables.find('client', clientMessageId)) ?? accepted;
  // Of a message that this browser does not keep.
  if (!entry?.status) return;
  // A message to oneself can come back before its acceptance does: it is one message.
  if (accepted && accepted.seq !== entry.seq) await tables.remove(accepted.seq);
  const { pending, ...kept } = entry;
  // A receipt can overtake the acceptance, or be all that comes after a reload. It does not say when the message was
  // accepted, by which it is put in order; sending it again does.
  const settled = acceptedAtMs !== undefined || status === 'failed';
  await tables.put({
    ...kept,
    ...(pending && !settled && { pending }),
    ...(serverMessageId !== '' && { serverMessageId }),
    ...(acceptedAtMs !== undefined && { atMs: acceptedAtMs }),
    ...(RANK[status] > RANK[entry.status] && { status, ...(reason && { reason }) }),
  });
}

/** What was written in this tab and has yet to reach the database, oldest first. */
function unstored(): Draft[] {
  return JSON.parse(sessionStorage.getItem(UNSTORED) ?? '[]') as Draft[];
}

function keepUnstored(drafts: Draft[]): void {
  if (drafts.length > 0) sessionStorage.setItem(UNSTORED, JSON.stringify(drafts));
  else sessionStorage.removeItem(UNSTORED);
}

function answer<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
