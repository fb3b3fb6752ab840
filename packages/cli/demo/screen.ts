import type { Report } from '@chatmesh/sdk/testing';
import { formatReport } from '@chatmesh/sdk/testing';
import { painter, printable, type Terminal } from '../terminal.js';
import type { Turn } from './script.js';

/** What the demo shows. */
export interface Screen {
  began(url: string, languages: number): void;
  turn(turn: Turn, who: string, serverMessageId: string, read: boolean): void;
  wentOffline(who: string): void;
  sentMeanwhile(who: string, count: number, ms: number): void;
  cameBack(who: string, count: number, ms: number): void;
  lookedAgain(): void;
  finished(report: Report, ms: number): void;
}

const languageColumns = 17;
const nameColumns = 7;

/** For people: a few lines of each language, what happens, and a table. */
export class TextScreen implements Screen {
  readonly #paint: ReturnType<typeof painter>;
  #silent = 0;
  #language = '';

  constructor(
    private readonly terminal: Terminal,
    private readonly verbose: boolean,
  ) {
    this.#paint = painter(terminal);
  }

  began(url: string, languages: number): void {
    this.terminal.out(this.#paint('bold', `Ada and Grace talk in ${languages} languages, each through ${url}`));
    this.terminal.out('');
  }

  turn({ language, text, sample }: Turn, who: string, _id: string, read: boolean): void {
    if (!sample && !this.verbose) {
      this.#silent += 1;
      this.terminal.progress(this.#paint('dim', `  ... and ${this.#silent} more messages`));
      return;
    }
    // The text comes last, whatever its script, so nothing has to line up after it.
    const label = language === this.#language ? '' : language;
    this.#language = language;
    const ticks = read ? this.#paint('blue', '✓✓') : ' ✓';
    const room = Math.max(20, this.terminal.columns - languageColumns - nameColumns - 6);
    const name = this.#paint('cyan', who.padEnd(nameColumns));
    this.terminal.out(`  ${label.padEnd(languageColumns)}${name}${ticks} ${printable(text, room)}`);
  }

  wentOffline(who: string): void {
    this.#endSilence();
    this.terminal.out(`  ${who} goes offline.`);
  }

  sentMeanwhile(who: string, count: number, ms: number): void {
    this.#silent = 0;
    this.terminal.out(`  ${who} goes on: ${count} messages in ${ms} ms, each on the server's disk before its ✓.`);
  }

  cameBack(who: string, count: number, ms: number): void {
    this.terminal.out(
      `  ${who} is back: all ${count} of them in ${ms} ms, in order, and reads them. ${this.#paint('blue', '✓✓')}`,
    );
  }

  lookedAgain(): void {
    this.#endSilence();
    this.terminal.out('  Both leave and come back once more: whatever came a second time would count as repeated.');
    this.terminal.out('');
  }

  finished(report: Report, ms: number): void {
    const { counts, faults, ok } = report;
    const { lost, repeated, reordered, doubled, corrupted, receiptsMissing, ...others } = faults;
    const other = Object.values(others).reduce((sum, { count }) => sum + count, 0);
    const row = (name: string, count: number, bad: boolean): void => {
      const figure = String(count).padStart(6);
      this.terminal.out(`  ${name.padEnd(18)}${bad ? this.#paint(count === 0 ? 'green' : 'red', figure) : figure}`);
    };
    row('sent', counts.accepted, false);
    row('delivered', counts.delivered, false);
    row('read', counts.read, false);
    row('lost', lost.count, true);
    row('repeated', repeated.count, true);
    row('reordered', reordered.count, true);
    row('doubled', doubled.count, true);
    row('corrupted', corrupted.count, true);
    row('receipts missing', receiptsMissing.count, true);
    if (other > 0) row('other faults', other, true);
    this.terminal.out('');
    if (ok) this.terminal.out(this.#paint('green', `Every promise was kept, in ${(ms / 1000).toFixed(1)} s.`));
    else this.terminal.out(`${this.#paint('red', 'A promise was broken:')}\n${formatReport(report)}`);
  }

  #endSilence(): void {
    if (this.#silent > 0) this.terminal.out(this.#paint('dim', `  ... and ${this.#silent} more messages`));
    this.#silent = 0;
    this.#language = '';
  }
}

/** For programs: a line of JSON for each event. */
export class JsonScreen implements Screen {
  constructor(private readonly terminal: Terminal) {}

  began(url: string, languages: number): void {
    this.#print({ event: 'began', url, languages });
  }

  turn({ language, text }: Turn, from: string, server_message_id: string, read: boolean): void {
    this.#print({ event: 'message', language, from, server_message_id, status: read ? 'read' : 'sent', text });
  }

  wentOffline(who: string): void {
    this.#print({ event: 'offline', who });
  }

  sentMeanwhile(from: string, messages: number, ms: number): void {
    this.#print({ event: 'sent_meanwhile', from, messages, ms });
  }

  cameBack(who: string, messages: number, ms: number): void {
    this.#print({ event: 'backlog', who, messages, ms });
  }

  lookedAgain(): void {
    this.#print({ event: 'reconnected' });
  }

  finished({ ok, counts, faults }: Report, ms: number): void {
    const found = Object.fromEntries(Object.entries(faults).map(([kind, { count }]) => [kind, count]));
    const { accepted: sent, delivered, read } = counts;
    const examples = Object.values(faults).flatMap((fault) => fault.examples);
    this.#print({ event: 'summary', ok, sent, delivered, read, ...found, ...(ok ? {} : { examples }), ms });
  }

  #print(event: object): void {
    this.terminal.out(JSON.stringify(event));
  }
}
