import type { Change, Entry, Status } from './store.js';

const STATUS_NAMES: Record<Status, string> = {
  sending: 'Sending',
  sent: 'Sent',
  delivered: 'Delivered',
  read: 'Read',
  failed: 'Not delivered',
};

const REASONS: Record<string, string> = {
  not_found: 'There is no such user.',
  permission_denied: 'This user does not take messages from you.',
  expired: 'It waited too long for the recipient.',
};

const timeFormat = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });
const dayFormat = new Intl.DateTimeFormat(undefined, { weekday: 'long', day: 'numeric', month: 'long' });
const SVG = 'http://www.w3.org/2000/svg';
const DAY_MS = 86_400_000;

/** The reader counts as being at the end within this distance from it. */
const NEAR_END_PX = 80;

interface Row {
  entry: Entry;
  readonly element: HTMLElement;
}

/** The messages on the screen, in the order of acceptance; what is not accepted yet stands at the end. */
export class Log {
  readonly #container: HTMLElement;
  readonly #onRetry: (entry: Entry) => void;
  readonly #rows: Row[] = [];
  #atEnd = true;
  #lastTopPx = 0;

  /** `container`'s parent scrolls. */
  constructor(container: HTMLElement, onRetry: (entry: Entry) => void) {
    this.#container = container;
    this.#onRetry = onRetry;
    this.#scroller.addEventListener('scroll', () => {
      const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
      const near = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
      // Only scrolling up leaves the end; new messages below it do not.
      this.#atEnd = near || (this.#atEnd && scrollTop >= this.#lastTopPx);
      this.#lastTopPx = scrollTop;
    });
    // A growing message, a banner or a phone's keyboard leave less room: the end stays in view.
    const sizes = new ResizeObserver(() => {
      if (this.#atEnd) this.scrollToEnd();
    });
    sizes.observe(this.#scroller);
    sizes.observe(container);
  }

  /** How many messages are shown. */
  get size(): number {
    return this.#rows.length;
  }

  /** True when the reader is at the end, and so wants to stay there. */
  get atEnd(): boolean {
    return this.#atEnd;
  }

  scrollToEnd(): void {
    this.#atEnd = true;
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }

  clear(): void {
    this.#rows.length = 0;
    this.#container.replaceChildren();
  }

  /** Shows what changed. The same entry is shown once, however often it is given. */
  apply({ changed, removed }: Change): void {
    for (const seq of removed) this.#remove(this.#find(seq));
    for (const entry of changed) this.#put(entry);
  }

  /** Shows older messages; what the reader looks at stays where it is. */
  prepend(entries: Entry[]): void {
    const fromEnd = this.#scroller.scrollHeight - this.#scroller.scrollTop;
    this.apply({ changed: entries, removed: [] });
    this.#scroller.scrollTop = this.#scroller.scrollHeight - fromEnd;
  }

  get #scroller(): HTMLElement {
    return this.#container.parentElement as HTMLElement;
  }

  #find(seq: number): number {
    return this.#rows.findLastIndex((row) => row.entry.seq === seq);
  }

  #put(entry: Entry): void {
    const at = this.#find(entry.seq);
    const row = this.#rows[at];
    if (row && !precedes(entry, this.#rows[at - 1]?.entry) && !precedes(this.#rows[at + 1]?.entry, entry)) {
      row.entry = entry;
      update(row.element, entry, this.#onRetry);
      this.#dress(at);
      this.#dress(at + 1);
      return;
    }
    this.#remove(at);
    const index = this.#rows.findLastIndex((other) => precedes(other.entry, entry)) + 1;
    const element = build();
    update(element, entry, this.#onRetry);
    this.#container.insertBefore(element, this.#rows[index]?.element ?? null);
    this.#rows.splice(index, 0, { entry, element });
    this.#dress(index);
    this.#dress(index + 1);
  }

  #remove(index: number): void {
    if (index < 0) return;
    this.#rows[index]?.element.remove();
    this.#rows.splice(index, 1);
    this.#dress(index);
  }

  /** What a row shows for the sake of the one above: a new day, or that the same user goes on. */
  #dress(index: number): void {
    const row = this.#rows[index];
    if (!row) return;
    const { element, entry } = row;
    const above = this.#rows[index - 1]?.entry;
    const day = dayOf(entry);
    const newDay = above === undefined || dayOf(above) !== day;
    if (newDay) element.dataset.day = day;
    else delete element.dataset.day;
    element.classList.toggle('goes-on', !newDay && above.mine === entry.mine);
  }
}

function precedes(one: Entry | undefined, other: Entry | undefined): boolean {
  if (!one || !other) return false;
  const [a, b] = [one, other].map((entry) => (entry.pending ? Number.POSITIVE_INFINITY : entry.atMs)) as [
    number,
    number,
  ];
  return a < b || (a === b && one.seq < other.seq);
}

/** A message's element; `update` fills it. */
function build(): HTMLElement {
  const content = document.createElement('p');
  content.dir = 'auto';
  const footer = document.createElement('footer');
  footer.append(document.createElement('time'));
  const bubble = document.createElement('div');
  bubble.className = 'bubble';
  bubble.append(unseen(), content, footer);
  const element = document.createElement('article');
  element.append(bubble);
  return element;
}

/** Changes only what differs, so that a screen reader does not read the message again with each tick. */
function update(element: HTMLElement, entry: Entry, onRetry: (entry: Entry) => void): void {
  const { mine, text, atMs, status, serverMessageId } = entry;
  element.classList.add('message', mine ? 'mine' : 'theirs');
  if (serverMessageId !== undefined) element.dataset.id = serverMessageId;
  write(element.querySelector('.unseen'), mine ? 'You:' : 'They:');
  write(element.querySelector('p'), text);
  const time = element.querySelector('time') as HTMLTimeElement;
  time.dateTime = new Date(atMs).toISOString();
  write(time, timeFormat.format(atMs));
  if (status === undefined || element.dataset.status === status) return;

  element.dataset.status = status;
  let icon = element.querySelector('svg');
  if (!icon) {
    icon = buildIcon();
    time.after(icon);
  }
  icon.setAttribute('aria-label', STATUS_NAMES[status]);
  icon.querySelector('use')?.setAttribute('href', `#icon-${status}`);
  if (status === 'failed') element.append(buildFailure(entry, onRetry));
}

function write(element: Element | null, text: string): void {
  if (element && element.textContent !== text) element.textContent = text;
}

function buildFailure(entry: Entry, onRetry: (entry: Entry) => void): HTMLElement {
  const failure = document.createElement('div');
  failure.className = 'failure';
  const why = document.createElement('span');
  why.textContent = REASONS[entry.reason ?? ''] ?? 'The server refused it.';
  const retry = document.createElement('button');
  retry.type = 'button';
  retry.className = 'soft';
  retry.textContent = 'Send again';
  retry.onclick = () => onRetry(entry);
  failure.append(why, retry);
  return failure;
}

/** Says whose a message is to who cannot see on which side it stands. */
function unseen(): HTMLElement {
  const label = document.createElement('span');
  label.className = 'unseen';
  return label;
}

/** Shows a symbol of the page's sprite. */
function buildIcon(): SVGSVGElement {
  const icon = document.createElementNS(SVG, 'svg');
  icon.setAttribute('class', 'icon status');
  icon.setAttribute('role', 'img');
  icon.append(document.createElementNS(SVG, 'use'));
  return icon;
}

function dayOf({ atMs }: Entry): string {
  const day = new Date(atMs).setHours(0, 0, 0, 0);
  const today = new Date().setHours(0, 0, 0, 0);
  // Not exactly a day apart where the clocks change.
  const daysAgo = Math.round((today - day) / DAY_MS);
  if (daysAgo === 0) return 'Today';
  return daysAgo === 1 ? 'Yesterday' : dayFormat.format(day);
}
